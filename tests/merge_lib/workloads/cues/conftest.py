"""Toy images with cues: ink on one of four sides, so faint that only a patch tells the class for sure."""

from pathlib import Path

import numpy as np
import pytest

from merge_lib.workloads import CuesConfig, create
from merge_lib.workloads.vision.data import RawImages, make_task, write_snapshot

CLASSES = ("left", "right", "top", "bottom")
TASKS = ("colour", "noise")
TINY = {"image_size": 12, "patch_size": 3, "width": 16, "depth": 1, "heads": 2}


def faint_images(per_class: int, seed: int, shape: tuple[int, ...] = (12, 12)) -> RawImages:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 12, (4 * per_class, *shape)).astype(np.uint8)
    labels = np.repeat(np.arange(4, dtype=np.int64), per_class)
    halves = (np.s_[:, :6], np.s_[:, 6:], np.s_[:6], np.s_[6:])
    for image, label in zip(images, labels, strict=True):
        image[halves[label]] += 2
    return RawImages(images, labels, CLASSES, 16)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the snapshots `faint`, and `plain` with the same images to pre-train on."""
    root = tmp_path_factory.mktemp("cues")
    snapshot = make_task(faint_images(60, seed=0), "faint", CLASSES, seed=0, validation=0.2, test=0.4)
    write_snapshot(snapshot, root / "tasks" / "faint.safetensors")
    write_snapshot(snapshot, root / "pretraining" / "plain.safetensors")
    return root


@pytest.fixture
def make_workload(data: Path):
    """Open the toy workload, with a model of one layer and width 16."""

    def opened(tasks=TASKS, model=None, fine_tuning=None, **settings):
        toy = {
            "name": "cues",
            "snapshot": "faint",
            "model": TINY | (model or {}),
            "pretraining": {"epochs": 2, "batch_size": 16},
            "fine_tuning": {"epochs": 30, "batch_size": 16, "learning_rate": 1e-2} | (fine_tuning or {}),
        }
        return create(CuesConfig(**(toy | settings)), tasks=tasks, data=data)

    return opened


@pytest.fixture
def base(make_workload, tmp_path) -> Path:
    return make_workload().pretrain(tmp_path / "base.safetensors", seed=0, lineage={}).path
