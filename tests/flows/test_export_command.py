"""`mergeline export` and `mergeline judge` as a user types them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from flows.cli import make_app
from flows.config import load_study
from merge_lib.checkpoints import write_state_dict
from merge_lib.errors import CheckpointError, SpecError
from tasks.payloads import RunPayload
from tasks.project import Project
from tasks.runs import outbox_of, start_run

WORDS = ("<pad>", "</s>", "<unk>", "which", ":", "=", "a", "b")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A tiny model's folder, and beside it a checkpoint of the model in which every weight is doubled."""
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=12,
                hidden_size=8,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=1,
            )
        )
    model.save_pretrained(tmp_path / "start")
    doubled = {name: 2 * tensor for name, tensor in model.state_dict().items()}
    write_state_dict(tmp_path / "merged.safetensors", doubled, lineage={"kind": "merge"})
    return tmp_path


STUDY = """
study: texts
workload:
  name: language
  model: start
  tuning: {kind: lora, lora: {rank: 2, alpha: 4, targets: [q_proj], space: factor}}
tasks: [one]
seeds: [0]
methods: [average]
"""
TASK = """
task: which_letter
dataset_path: json
dataset_kwargs: {{data_files: {{test: {place}/letters.jsonl}}, cache_dir: {place}/cache}}
test_split: test
output_type: multiple_choice
doc_to_text: prompt
doc_to_choice: [a, b]
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""


@pytest.fixture
def study(folder) -> Path:
    """A study that begins with the tiny model, the factors of one of its experts, and a task to judge by."""
    (folder / "studies").mkdir()
    (folder / "studies" / "texts.yaml").write_text(STUDY)
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = {f"{layer}.lora_A.weight": torch.ones(2, 8), f"{layer}.lora_B.weight": torch.ones(8, 2)}
    write_state_dict(folder / "expert.safetensors", factors, lineage={"kind": "train"})
    words = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>")
    tokenizer.save_pretrained(folder / "start")
    (folder / "tasks").mkdir()
    (folder / "tasks" / "letters.yaml").write_text(TASK.format(place=folder / "tasks"))
    lines = [{"prompt": f"which : {word} =", "answer": at} for at, word in enumerate("ab")]
    (folder / "tasks" / "letters.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "studies" / "texts.yaml"


def mergeline(*words: str):
    result = CliRunner().invoke(make_app([words[0]]), list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_merge_becomes_a_folder_of_transformers(folder):
    told = json.loads(mergeline("export", "merged.safetensors", "out", "--model", "start", "--json").stdout)
    assert told["form"] == "model"
    loaded = AutoModelForCausalLM.from_pretrained(folder / "out")
    begun = AutoModelForCausalLM.from_pretrained(folder / "start")
    assert torch.equal(loaded.lm_head.weight, 2 * begun.lm_head.weight)
    shown = mergeline("export", "merged.safetensors", "half", "--model", "start", "--dtype", "f16").stdout
    assert shown.startswith("half: model of 0.0 MB, digest xxh3:")


def test_a_study_says_what_its_checkpoints_are_of(study, folder):
    asked = ("export", "expert.safetensors", "out", "--study", str(study), "--json")
    made = json.loads(mergeline(*asked).stdout)
    assert "tokenizer.json" in made["copied"]
    loaded, begun = (AutoModelForCausalLM.from_pretrained(folder / name) for name in ("out", "start"))
    query = loaded.model.layers[0].self_attn.q_proj.weight
    torch.testing.assert_close(query, begun.model.layers[0].self_attn.q_proj.weight + 4.0)
    made = mergeline("export", "expert.safetensors", "factors", "--study", str(study), "--adapter").stdout
    assert "load it with PeftModel.from_pretrained onto start" in made
    assert (folder / "factors" / "adapter_config.json").is_file()


def test_a_judgement_is_recorded_beside_the_run(study, folder, migrated_store, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    project = Project(folder)
    project.state.mkdir()
    shutil.copy(migrated_store, project.state / "mlflow.db")
    run = start_run(project, "texts", load_study(study).model_dump(mode="json"), "mergeline run texts")
    started = RunPayload(run.run_id, "texts", run.run_id, None, {}, {}, started_ms=1_000, ended_ms=2_000)
    outbox_of(project, run.run_id).put(started)
    asked = (
        "judge",
        "expert.safetensors",
        "--run",
        "latest",
        "--tasks",
        "which_letter",
        "--include",
        "tasks",
    )
    result = mergeline(*asked, "--json")
    (score,) = json.loads(result.stdout)
    assert (score["task"], score["examples"]) == ("which_letter", 2)
    (kept,) = (project.runs / run.run_id / "judged").iterdir()
    assert json.loads(kept.read_text())["scores"] == {"judged/which_letter/acc/none": score}
    assert not list(outbox_of(project, run.run_id).waiting())


AXES = """
axes:
  seeds: [[0], [1]]
  adapters:
    small: {workload.tuning.lora.alpha: 4}
    large: {workload.tuning.lora.alpha: 8}
"""


def test_of_a_study_with_axes_a_level_is_named_where_it_decides_the_model(study, folder):
    study.write_text(f"{STUDY}{AXES}")
    export = ("export", "expert.safetensors")
    with pytest.raises(
        SpecError,
        match=r"(?s)begin with different models.*\"alpha\":8.*adapters=large.*by --level AXIS=LEVEL",
    ):
        mergeline(*export, "out", "--study", str(study))
    with pytest.raises(SpecError, match=r"axis adapters has no level 'smal'; did you mean 'small'"):
        mergeline(*export, "out", "--study", str(study), "--level", "adapters=smal")
    mergeline(*export, "out", "--study", str(study), "--level", "adapters=large")
    loaded, begun = (AutoModelForCausalLM.from_pretrained(folder / name) for name in ("out", "start"))
    query = loaded.model.layers[0].self_attn.q_proj.weight
    torch.testing.assert_close(query, begun.model.layers[0].self_attn.q_proj.weight + 8.0)
    study.write_text(f"{STUDY}axes:\n  seeds: [[0], [1]]\n")
    mergeline(*export, "other", "--study", str(study))  # the axis does not matter here
    with pytest.raises(SpecError, match=r"--level chooses among the studies of a file with axes"):
        mergeline(*export, "third", "--model", "start", "--level", "adapters=large")


@pytest.mark.parametrize("more", [[], ["--model", "start", "--run", "latest"]])
def test_which_model_it_is_of_is_said_once(folder, more):
    with pytest.raises(SpecError, match=r"said once: --study STUDY\.yaml, --run RUN .* or --model"):
        mergeline("export", "merged.safetensors", "out", *more)


def test_options_that_do_not_go_together_are_refused(folder):
    with pytest.raises(SpecError, match="--adapter writes factors as they are"):
        mergeline("export", "merged.safetensors", "out", "--model", "start", "--adapter", "--dtype", "F16")
    with pytest.raises(SpecError, match="--tasks names no task"):
        mergeline("judge", "start", "--tasks", " ,")


def test_a_folder_without_a_tokenizer_cannot_be_judged(folder):
    (folder / "tasks").mkdir()
    (folder / "tasks" / "mine.yaml").write_text("task: mine\n")
    with pytest.raises(CheckpointError, match=r"Model folder '.*start' lacks tokenizer\.json"):
        mergeline("judge", "start", "--tasks", "mine", "--include", "tasks")
