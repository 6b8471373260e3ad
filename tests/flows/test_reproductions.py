"""What the studies of the papers cost is worked out without weights."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.axes import load_cells
from flows.cli import make_app
from flows.costs import Rates, costs_of
from flows.estimates import plan_all
from merge_lib.errors import SpecError
from tasks.project import Project
from tests.conftest import ROOT

REPRODUCED = ROOT / "studies" / "reproduce"
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 10,
}
STUDY = """
study: tiny
workload:
  name: language
  model: someone/tiny
  tuning: {kind: lora, lora: {rank: 2, targets: [q_proj]}}
  fine_tuning: {epochs: 3, batch_size: 4, learning_rate: 1.0e-3, precision: bf16}
  max_input: 6
  max_target: 2
  batch: 5
tasks: [one, two]
seeds: [0]
regimes: [parallel]
references: []
keep_merged: false
audit: false
landscape: false
methods: [average]
"""


@pytest.mark.parametrize(
    ("name", "cells", "tasks"), [("mtil-condu", 4, 11), ("standard-cl-t5", 3, 4), ("long-llama", 3, 15)]
)
def test_a_reproduction_is_planned_without_data_or_weights(name, cells, tasks, tmp_path):
    found = [cell.study for cell in load_cells(REPRODUCED / f"{name}.yaml")]
    assert [len(study.tasks) for study in found] == [tasks] * cells
    steps, is_known = plan_all(Project(tmp_path), found)
    assert not is_known
    assert sum(step.kind == "train" for step in steps) >= cells * tasks
    assert not any(step.is_cached for step in steps)


@pytest.fixture
def study(tmp_path, monkeypatch) -> Path:
    """A study of a tiny model, of which only the configuration is there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "studies" / "shapes").mkdir(parents=True)
    (tmp_path / "studies" / "shapes" / "tiny.json").write_text(json.dumps(LLAMA))
    sizes = {name: {"train": 10, "test": 20, "prompt": 5, "answer": 2} for name in ("one", "two")}
    (tmp_path / "studies" / "sizes.json").write_text(json.dumps(sizes))
    (tmp_path / "studies" / "tiny.yaml").write_text(STUDY)
    return tmp_path / "studies" / "tiny.yaml"


def test_costs_worked_by_hand(study):
    rates = Rates(tflops=1e-6, eval_tflops=2e-6, share=0.5, bandwidth=1e-3)
    (cost,) = costs_of(study, (), rates).values()
    matrices = 4 * 8 * 8 + 3 * 8 * 16
    per_token = matrices + 3 * 8 + 10 * 8  # with norms and the output layer
    forward = 2 * per_token * 7 + 4 * 8 * 7**2
    steps = 3 * 3  # three epochs of three batches, for each of two experts
    assert cost.trainings == 2
    assert cost.train_h * 3600 == pytest.approx(2 * 2 * steps * 4 * forward / 0.5e6)
    judged = cost.evaluations
    answered = 4 * 2 * 4 * per_token / (1e6 * 0.5)  # four batches, two tokens each, all weights read
    assert cost.evaluate_h * 3600 == pytest.approx(judged * 2 * (20 * forward / 1e6 + answered))
    parameters, adapted = per_token + 10 * 8, 2 * (8 + 8)
    activations = 34 * 4 * (6 + 2) * 8
    logits = 10 * 4 * 5 * 10
    assert cost.memory_gb * 1e9 == pytest.approx(4 * parameters + 16 * adapted + activations + logits)
    assert cost.disk_gb * 1e9 == pytest.approx(4 * adapted * 3)  # the base and two experts


def test_the_command_prints_a_line_for_each_combination(study):
    asked = ["cost", str(study), "--set", "axes.seeds=[[0],[1]]", "--json"]
    told = json.loads(CliRunner().invoke(make_app(["cost"]), asked, catch_exceptions=False).stdout)
    assert len(told["cells"]) == 2
    shown = CliRunner().invoke(make_app(["cost"]), ["cost", str(study)]).stdout
    assert "Cost of tiny" in shown
    assert "GPU hours in all" in shown


def test_what_is_not_known_is_named(study):
    shutil.rmtree(study.parent / "shapes")
    with pytest.raises(SpecError, match=r"configuration of model 'someone/tiny' is neither .* --config"):
        costs_of(study, (), Rates())
    (study.parent / "sizes.json").write_text('{"one": {"train": 1, "test": 1}}')
    with pytest.raises(SpecError, match=r"sizes\.json' lacks the tasks two\. Add them"):
        costs_of(study, (), Rates())
    (study.parent / "sizes.json").unlink()
    with pytest.raises(SpecError, match="Write a JSON object beside the study"):
        costs_of(study, (), Rates())
