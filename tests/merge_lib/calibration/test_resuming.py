"""Collecting that is interrupted, repeated, or sent to a folder of something else."""

import json

import pytest

from merge_lib.calibration.collect import Calibration, collect
from merge_lib.calibration.manifest import MANIFEST, UNFINISHED
from merge_lib.errors import CheckpointCorruptError, SpecError

DATA = {"data": "hash of data", "model": "digest"}


def gather(kind, state, probe, out, progress=lambda *_: None, **options):
    asked = {"examples": 5, "batch_size": 5, **options}
    told = {**DATA, **{name: asked.pop(name) for name in DATA if name in asked}}
    return collect(Calibration(kind, **asked), state, probe, "a", out, progress=progress, **told)


def stop_after(tensors):
    def progress(done, _all):
        if done == tensors:
            raise KeyboardInterrupt

    return progress


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_was_finished_is_not_collected_again(state, probe, tmp_path):
    gather("gram", state, probe, tmp_path / "whole", memory_bytes=1)
    passes = len(probe.calls)
    probe.calls.clear()
    with pytest.raises(KeyboardInterrupt):
        gather("gram", state, probe, tmp_path / "stopped", stop_after(3), memory_bytes=1)
    assert not (tmp_path / "stopped" / MANIFEST).exists()
    assert len(json.loads((tmp_path / "stopped" / UNFINISHED).read_text())["counts"]) == 3
    seen = []
    gather("gram", state, probe, tmp_path / "stopped", lambda *done: seen.append(done), memory_bytes=1)
    assert len(probe.calls) == passes
    assert seen[0][0] == 4
    assert seen[-1][0] == seen[-1][1]
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_fisher_information_begins_anew(state, probe, tmp_path):
    gather("fisher", state, probe, tmp_path / "whole", batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        gather("fisher", state, probe, tmp_path / "stopped", stop_after(2), batch_size=2)
    gather("fisher", state, probe, tmp_path / "stopped", batch_size=2)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_little_memory_holds_gradients_of_fewer_examples(state, probe, tmp_path):
    steps = []
    entries = sum(tensor.numel() for tensor in state.values())
    gather("fisher", state, probe, tmp_path, lambda *done: steps.append(done), memory_bytes=4 * 2 * entries)
    assert steps == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_folder_of_other_observations_is_refused(is_whole, state, probe, tmp_path):
    if is_whole:
        gather("gram", state, probe, tmp_path)
    else:
        with pytest.raises(KeyboardInterrupt):
            gather("gram", state, probe, tmp_path, stop_after(1))
    before = contents(tmp_path)
    with pytest.raises(
        SpecError,
        match=r"holds other observations than those asked for: kind 'gram', not 'features', model 'digest', not "
        r"'other', examples 5, not 4, rows None, not 2\. Name another folder",
    ):
        gather("features", state, probe, tmp_path, model="other", examples=4, rows=2)
    assert contents(tmp_path) == before


def test_a_folder_of_anything_else_is_refused(state, probe, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SpecError, match=r"holds 'notes\.txt' and 0 other files or folders, but no obs"):
        gather("gram", state, probe, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_damaged_account_is_told(state, probe, tmp_path):
    (tmp_path / UNFINISHED).write_text("{")
    with pytest.raises(CheckpointCorruptError, match=r"no readable observations\.unfinished\.json .*Delete"):
        gather("gram", state, probe, tmp_path)
