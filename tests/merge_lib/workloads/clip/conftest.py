"""A project with a tiny CLIP and tasks of left, right, top and bottom halves."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessorPil

from merge_lib.workloads import ClipConfig, create
from merge_lib.workloads.clip.mini import initial_model
from merge_lib.workloads.clip.mini_config import Sizes
from merge_lib.workloads.clip.tokens import make_tokenizer
from merge_lib.workloads.vision.data import RawImages, Snapshot, make_task, write_snapshot

NAMES = {"left-right": ("left", "right"), "top-bottom": ("top", "bottom"), "corners": ("left", "bottom")}
HALVES = {"left": np.s_[:, :4], "right": np.s_[:, 4:], "top": np.s_[:4], "bottom": np.s_[4:]}
TINY = Sizes(image_size=8, patch_size=4, width=16, depth=1, text_depth=1, heads=2)
FACTOR = 3.0  # on first weights, so that different texts have different features
LORA = {"kind": "lora", "lora": {"rank": 2, "alpha": 4, "targets": ["fc1"]}}


def halves(per_class: int, seed: int) -> RawImages:
    """Noise, lighter in one half."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 60, (4 * per_class, 8, 8)).astype(np.uint8)
    labels = np.repeat(np.arange(4, dtype=np.int64), per_class)
    for image, label in zip(images, labels, strict=True):
        image[HALVES[tuple(HALVES)[label]]] += 190
    return RawImages(images, labels, tuple(HALVES), 255)


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's folder: data/tasks and data/models/tiny."""
    root = tmp_path_factory.mktemp("project")
    for seed, (name, classes) in enumerate(NAMES.items()):
        made = make_task(halves(80, seed), name, classes, seed=0, validation=0.2, test=0.4)
        told = Snapshot(made.name, made.classes, made.white, made.splits, made.origin, (), ("the {} half",))
        write_snapshot(told, root / "data" / "tasks" / f"{name}.safetensors")
    tokenizer = make_tokenizer([f"the {name} half" for name in HALVES], length=8)
    folder = root / "data" / "models" / "tiny"
    model = initial_model(TINY, tokenizer, 0, length=8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(FACTOR if parameter.ndim > 1 else 1.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(image_mean=[0.5, 0.5, 0.5], image_std=[0.25, 0.5, 0.5]).save_pretrained(folder)
    return root


@pytest.fixture
def make_workload(root: Path):
    """Opens the workload on the tasks left-right and top-bottom."""

    def opened(tasks=("left-right", "top-bottom"), fine_tuning=None, **settings):
        asked = {"epochs": 8, "batch_size": 16, "learning_rate": 2e-3, "label_smoothing": 0.0}
        config = ClipConfig(
            name="clip", model="data/models/tiny", fine_tuning=asked | (fine_tuning or {}), **settings
        )
        return create(config, tasks=tasks, data=root / "data")

    return opened
