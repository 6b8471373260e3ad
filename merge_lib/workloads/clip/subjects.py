"""The data sets of a study on CLIP: snapshots, and what texts say of their classes.

Legend: b images, s side that the model takes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from merge_lib.errors import DataError
from merge_lib.probe import Split
from merge_lib.workloads.clip.heads import Subject
from merge_lib.workloads.clip.pictures import Normal, pixels
from merge_lib.workloads.vision.data import Snapshot, read_snapshot

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Form(NamedTuple):
    """How the model takes images."""

    size: int
    normal: Normal


class ImageSet:
    """The images of one data set; they stay in the file, in whole bytes, until they are asked for.

    Raises:
        DataError: the snapshot is missing, lacks a split, or calls two classes by one name.
    """

    def __init__(self, data: Path, name: str, form: Form, templates: Sequence[str]) -> None:
        self.snapshot = read_snapshot(data / "tasks" / f"{name}.safetensors")
        self.subject = subject_of(self.snapshot, templates)
        self.form = form
        if missing := sorted(set(SPLITS) - self.snapshot.splits.keys()):
            msg = f"Snapshot '{name}' lacks {', '.join(missing)}; delete it and run `dvc repro`."
            raise DataError(msg)

    def size(self, split: Split) -> int:
        """How many images a split has."""
        return len(self.snapshot.splits[split].labels)

    def labels(self, split: Split) -> Int64[Tensor, " n"]:
        """The index of each image's class."""
        return torch.from_numpy(self.snapshot.splits[split].labels)

    def images(self, split: Split, rows: Int64[Tensor, " b"]) -> Float[Tensor, "b 3 s s"]:
        """Some images, as the model takes them."""
        chosen = self.snapshot.splits[split].images[rows.numpy()]
        return pixels(chosen, self.snapshot.white, self.form.normal, size=self.form.size)


def subject_of(snapshot: Snapshot, templates: Sequence[str]) -> Subject:
    """What texts say of a snapshot; `templates` are those for snapshots without their own.

    Raises:
        DataError: two classes have one name.
    """
    names = snapshot.names or snapshot.classes
    if twice := sorted({name for name in names if names.count(name) > 1}):
        msg = (
            f"Snapshot '{snapshot.name}' calls several classes {', '.join(twice)}, so that no text tells them apart. "
            "Give each its own name under `names` in params.yaml."
        )
        raise DataError(msg)
    return Subject(names, snapshot.templates or tuple(templates))
