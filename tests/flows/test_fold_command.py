"""`mergeline fold` as a user types it."""

import json

import pytest
import torch
from typer.testing import CliRunner

from flows.cli import make_app
from merge_lib import MergeSpec, merge_checkpoints
from merge_lib.checkpoints import write_state_dict
from merge_lib.errors import CheckpointMismatchError, SpecError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A base and three experts, where the command is typed."""
    generator = torch.Generator().manual_seed(0)
    for name in ("base", "one", "two", "three"):
        tensors = {"layer.weight": torch.randn(4, 3, generator=generator), "layer.bias": torch.ones(4)}
        write_state_dict(tmp_path / f"{name}.safetensors", tensors, lineage={})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fold(words):
    result = CliRunner().invoke(make_app(), ["fold", "--base", "base.safetensors", *words.split()])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def all_at_once(folder, method, **params):
    experts = tuple(folder / f"{name}.safetensors" for name in ("one", "two", "three"))
    spec = MergeSpec(method=method, base=folder / "base.safetensors", experts=experts, params=params)
    merge_checkpoints(spec, folder / "all.safetensors")
    return (folder / "all.safetensors").read_bytes()


def test_a_sequence_and_the_model_of_a_task(folder):
    said = fold("one.safetensors --method condu --param rescaler=official --state s.safetensors")
    assert "s.safetensors: condu of 1 expert, " in said
    told = json.loads(
        fold("two.safetensors three.safetensors --state s.safetensors --out out.safetensors --json")
    )
    assert (len(told["experts"]), told["state_bytes"]) == (3, 16 * 4 + 3 * 3)
    assert told["state_bytes_per_expert"] == told["state_bytes"] / 3
    assert (folder / "out.safetensors").read_bytes() == all_at_once(folder, "condu", rescaler="official")
    fold("--state s.safetensors --out task.safetensors --task 1")
    expected = all_at_once(folder, "condu", rescaler="official", task=1)
    assert (folder / "task.safetensors").read_bytes() == expected


def test_the_old_state_stays_where_a_new_one_is_named(folder):
    fold("one.safetensors --method opcm --state s.safetensors")
    before = (folder / "s.safetensors").read_bytes()
    fold("two.safetensors --state s.safetensors --into new.safetensors")
    assert (folder / "s.safetensors").read_bytes() == before
    assert json.loads(fold("three.safetensors --state new.safetensors --dry-run --json"))["before"] == 2


def test_a_dry_run_writes_nothing(folder):
    said = fold("one.safetensors --method opcm --state s.safetensors --dry-run")
    assert "Experts to fold in by opcm: 1; folded in already: 0" in said
    assert not (folder / "s.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("one.safetensors --state s.safetensors", "A new state needs a method"),
        ("one.safetensors --state s.safetensors --method opcm --param share", "--param got 'share'"),
        (
            "one.safetensors --state s.safetensors --method opcm --param x=[1",
            r"--param x: '\[1' is not a YAML",
        ),
        ("one.safetensors --state s.safetensors --method condu --task 1 --param task=2", "each key once"),
        ("one.safetensors --state s.safetensors --method opcm --param shar=1", "no parameter 'shar'"),
        ("one.safetensors --state s.safetensors --method opcm --task 1", "no parameter 'task'"),
        ("one.safetensors --state s.safetensors --method opcm --out folder", "a fold writes one file"),
        ("one.safetensors --state s.safetensors --method ties", "keeps no state"),
        ("--state s.safetensors", "Without an expert"),
        ("--state s.safetensors --out out.safetensors --method opcm", "Without an expert"),
    ],
)
def test_wrong_requests(folder, words, message):
    with pytest.raises(SpecError, match=message):
        fold(words)
    assert not (folder / "s.safetensors").exists()


def test_another_method_is_refused(folder):
    fold("one.safetensors --method magmax --state s.safetensors")
    with pytest.raises(CheckpointMismatchError, match="`method` is 'magmax' in the state, but 'opcm'"):
        fold("two.safetensors --method opcm --state s.safetensors")
    with pytest.raises(CheckpointMismatchError, match=r"`params.scale` is 0.5 in the state, but 1.0 was"):
        fold("two.safetensors --param scale=1.0 --state s.safetensors")
