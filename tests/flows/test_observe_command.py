"""`mergeline observe` as a user types it, up to the merge that takes what it wrote."""

import json

import pytest
import torch
from typer.testing import CliRunner

import merge_lib
from flows.cli import make_app
from flows.config import load_study
from merge_lib import workloads
from merge_lib.calibration.collect import Calibration, collect
from merge_lib.calibration.store import open_learned
from merge_lib.checkpoints import checkpoint_digest, read_state_dict, write_state_dict
from merge_lib.errors import CheckpointMismatchError, DataError, SpecError
from merge_lib.workloads.vision.model import initial_model
from tests.conftest import ROOT

TASKS = ("digits-01", "digits-23")
OBSERVE = "observe {checkpoint} --study studies/digits.yaml --task {task} --kind {kind} --out {out}"


@pytest.fixture
def project(tiny_project, monkeypatch):
    """A project with a base and two experts of its study's model, where the command is typed."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    root = tiny_project()
    monkeypatch.chdir(root)
    config = load_study(root / "studies" / "digits.yaml").workload
    opened = workloads.create(config, tasks=TASKS, data=root / "data")
    for seed, name in enumerate(("base", *TASKS)):
        model = initial_model(
            config.model, classes=len(opened.classes), generator=torch.Generator().manual_seed(seed)
        )
        write_state_dict(root / f"{name}.safetensors", model.state_dict(), lineage={})
    return root


def mergeline(words):
    result = CliRunner().invoke(make_app(), words.split())
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def asked(kind, task=TASKS[0], checkpoint=None, out=None):
    checkpoint = checkpoint or f"{task}.safetensors"
    return OBSERVE.format(kind=kind, task=task, checkpoint=checkpoint, out=out or f"observed/{task}")


@pytest.mark.parametrize(("method", "kind"), [("cat", "features"), ("regmean", "gram"), ("fisher", "fisher")])
def test_a_recipe_takes_what_was_observed(method, kind, project):
    for task in TASKS:
        told = json.loads(mergeline(f"{asked(kind, task)} --examples 5 --json"))
        assert (told["kind"], told["task"], told["examples"], told["split"]) == (kind, task, 5, "train")
        assert told["model"] == checkpoint_digest(project / f"{task}.safetensors")
    (project / "recipe.yaml").write_text(
        f"method: {method}\nbase: base.safetensors\nexperts: [digits-01.safetensors, digits-23.safetensors]\n"
        "observations: [observed/digits-01, observed/digits-23]\n"
    )
    mergeline("merge recipe.yaml --out merged.safetensors")

    workload = workloads.create(
        load_study(project / "studies" / "digits.yaml").workload, tasks=TASKS, data=project / "data"
    )
    base, *experts = (read_state_dict(project / f"{name}.safetensors") for name in ("base", *TASKS))
    folders = [
        collect(
            Calibration(kind, examples=5),
            expert,
            workload.probe(),
            task,
            project / "again" / task,
            data="",
            model="",
        )
        for task, expert in zip(TASKS, experts, strict=True)
    ]
    learned = open_learned(method, [one.folder for one in folders], None)
    expected = merge_lib.merge(method, experts, base, learned=learned)
    merged = read_state_dict(project / "merged.safetensors")
    assert all(torch.equal(merged[name], expected[name]) for name in expected)


def test_the_record_names_the_data(project):
    said = mergeline(asked("gram"))
    assert said.startswith("observed/digits-01: gram of ")
    told = json.loads((project / "observed" / "digits-01" / "observations.json").read_text())
    lock = (project / "dvc.lock").read_text()
    assert told["data"]
    assert told["data"] in lock
    before = {path: path.stat().st_mtime_ns for path in (project / "observed" / "digits-01").iterdir()}
    mergeline(asked("gram"))  # whole already
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_unknown_words_are_told_together(project):
    with pytest.raises(SpecError) as caught:
        mergeline(asked("grams", "digits-10", "base.safetensors") + " --split tests")
    assert str(caught.value).splitlines() == [
        "--task got 'digits-10': did you mean 'digits-01'? known: digits-01, digits-23.",
        "--kind got 'grams': did you mean 'gram'? known: features, fisher, gram.",
        "--split got 'tests': did you mean 'test'? known: test, train, validation.",
    ]
    assert not (project / "observed").exists()


def test_what_does_not_fit_is_refused(project):
    write_state_dict(project / "other.safetensors", {"head.bias": torch.zeros(3)}, lineage={})
    with pytest.raises(
        CheckpointMismatchError, match=r"does not fit the study's model: .* is missing"
    ) as caught:
        mergeline(asked("gram", checkpoint="other.safetensors", out="other"))
    assert caught.value.__notes__ == ["The checkpoint is other.safetensors."]
    assert not (project / "other").exists()
    mergeline(asked("gram"))
    with pytest.raises(SpecError, match="other observations than those asked for: kind 'gram', not 'fisher'"):
        mergeline(asked("fisher"))
    with pytest.raises(DataError, match="The study needs the data snapshots missing"):
        mergeline(asked("gram", out="new") + " --set tasks=[digits-01,missing]")


def test_a_workload_without_a_probe_is_refused(project):
    study = (ROOT / "studies" / "blobs.yaml").read_text().replace("examples/", f"{ROOT}/examples/")
    (project / "studies" / "blobs.yaml").write_text(study)
    words = "observe base.safetensors --study studies/blobs.yaml --task west --kind gram --out west"
    with pytest.raises(SpecError, match="Workload 'blobs' has no `probe`"):
        mergeline(words)


def test_methods_say_which_kind_they_need():
    said = " ".join(mergeline("methods regmean").split())
    assert "Needs observations of kind gram of each expert; `mergeline observe` collects them." in said
    assert "observations of kind" not in mergeline("methods ties")
