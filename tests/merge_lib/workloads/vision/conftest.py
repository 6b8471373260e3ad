"""Toy images: ink on the left, right, top or bottom half, under noise."""

from pathlib import Path

import numpy as np
import pytest

from merge_lib.workloads import VisionConfig, create
from merge_lib.workloads.vision.data import Examples, RawImages, Snapshot, make_task, write_snapshot

CLASSES = ("left", "right", "top", "bottom")


def toy_images(per_class: int, seed: int) -> RawImages:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 6, (4 * per_class, 8, 8)).astype(np.uint8)
    labels = np.repeat(np.arange(4, dtype=np.int64), per_class)
    halves = (np.s_[:, :4], np.s_[:, 4:], np.s_[:4], np.s_[4:])
    for image, label in zip(images, labels, strict=True):
        image[halves[label]] += 10
    return RawImages(images, labels, CLASSES, 16)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a pre-training snapshot and the tasks left-right and top-bottom."""
    root = tmp_path_factory.mktemp("data")
    raw = toy_images(30, seed=0)
    for name, classes in (("left-right", CLASSES[:2]), ("top-bottom", CLASSES[2:])):
        snapshot = make_task(raw, name, classes, seed=0, validation=0.1, test=0.4)
        write_snapshot(snapshot, root / "tasks" / f"{name}.safetensors")
    early = toy_images(20, seed=1)
    splits = {
        "train": Examples(early.images[::2], early.labels[::2]),
        "validation": Examples(early.images[1::2], early.labels[1::2]),
    }
    write_snapshot(Snapshot("toy", CLASSES, 16, splits, {}), root / "pretraining" / "toy.safetensors")
    return root


@pytest.fixture
def make_workload(data: Path):
    """Open the toy workload in a scenario, with a model of 2 layers and width 32."""

    def opened(scenario="class-incremental", **fine_tuning):
        config = VisionConfig(
            name="vision",
            scenario=scenario,
            model={"patch_size": 2, "width": 32, "depth": 2, "heads": 2},
            pretraining={"snapshot": "toy", "epochs": 2, "batch_size": 16},
            fine_tuning={"epochs": 12, "batch_size": 8, "learning_rate": 5e-3} | fine_tuning,
        )
        return create(config, tasks=["left-right", "top-bottom"], data=data)

    return opened


@pytest.fixture
def base(make_workload, tmp_path):
    return make_workload().pretrain(tmp_path / "base.safetensors", seed=0, lineage={}).path
