"""Several processes that train one model together, started by accelerate, on the CPU."""

import numpy as np
import pytest
import torch

from merge_lib.checkpoints import read_state_dict
from merge_lib.errors import SpecError
from merge_lib.workloads import parse
from merge_lib.workloads.training.assignments import Assignment
from merge_lib.workloads.training.together import train_together
from merge_lib.workloads.vision.data import Examples, Snapshot, write_snapshot

pytest.importorskip("accelerate")
pytestmark = pytest.mark.slow


@pytest.fixture
def assignment(tmp_path):
    """Pre-training on images that are bright on one side: 4 steps of 7 images, the last of an epoch of 6."""
    generator = np.random.default_rng(0)
    labels = np.arange(13) % 2
    images = generator.integers(0, 9, (13, 8, 8), dtype=np.uint8)
    images[labels == 0, :, :4] += 7
    images[labels == 1, :, 4:] += 7
    part = Examples(images, labels.astype(np.int64))
    for folder, splits in (
        ("pretraining", ("train", "validation")),
        ("tasks", ("train", "validation", "test")),
    ):
        whole = Snapshot("toy", ("left", "right"), 16, dict.fromkeys(splits, part), {})
        write_snapshot(whole, tmp_path / "data" / folder / "toy.safetensors")

    def make(**settings):
        training = {"snapshot": "toy", "epochs": 2, "batch_size": 7, **settings}
        workload = {"name": "vision", "scenario": "task-incremental", "pretraining": training}
        workload["model"] = {"width": 32, "depth": 2, "heads": 2}
        return Assignment(
            root=str(tmp_path),
            plugins=(),
            settings=parse(workload).model_dump(mode="json"),
            tasks=("toy",),
            threads=1,
            start=None,
            train_on=(),
            out=str(tmp_path / "out.safetensors"),
            seed=0,
            lineage={},
            partial=str(tmp_path / "partial"),
        )

    return make


def test_two_processes_give_what_one_gives(assignment, tmp_path):
    job, told = assignment(save_every=3), []
    alone = job.carry_out(job.open_workload(), None)
    expected = read_state_dict(alone.path)
    (tmp_path / "partial" / "training.safetensors").unlink()
    job.settings["pretraining"] |= {"devices": 2, "micro_batch": 9}  # more than a process ever has
    together = train_together(job, 2, lambda done, total: told.append((done, total)))
    assert told == [(4, 4)]
    assert (tmp_path / "partial" / "training.safetensors").is_file()
    assert together.losses == pytest.approx(alone.losses, abs=1e-5)
    assert together.curves.gradient_norm == pytest.approx(alone.curves.gradient_norm, abs=1e-4)
    found = read_state_dict(together.path)
    assert all(torch.allclose(found[name], expected[name], atol=1e-3) for name in expected)
    assert together.validation_accuracy == alone.validation_accuracy


def test_fewer_processes_than_asked_for_are_refused(assignment):
    job = assignment(devices=2)
    with pytest.raises(SpecError, match="`devices` is 2, but 1 process trains here"):
        job.carry_out(job.open_workload(), None)


def test_who_stops_listening_stops_the_processes(assignment):
    def stop(_done, _total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_together(assignment(epochs=2000, devices=2), 2, stop)
