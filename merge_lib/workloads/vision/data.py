"""Raw images to task snapshots: duplicates removed, stratified, no image in two splits. Needs numpy only.

A snapshot is one safetensors file with `<split>.images` (uint8 [n, h, w], 0 = paper) and `<split>.labels`
(int64 [n], index into `classes`) for each split, and one metadata key, "mergeline", of sorted JSON.
"""

import gzip
import json
import logging
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8
from safetensors import SafetensorError
from safetensors.numpy import save as to_safetensors

from merge_lib.errors import DataError, suggest

logger = logging.getLogger(__name__)

METADATA_KEY = "mergeline"
DIGITS_WHITE = 16  # the handwritten digits have 17 grey levels: pixels set in a block of 4 x 4
FOLDER_WHITE = 255

Images = UInt8[np.ndarray, "n h w"]
Labels = Int64[np.ndarray, " n"]


class Examples(NamedTuple):
    """Images and the index of each one's class."""

    images: Images
    labels: Labels


@dataclass(frozen=True)
class RawImages:
    """All labelled images of a raw source."""

    images: Images
    labels: Labels
    classes: tuple[str, ...]  # the name of each label
    white: int  # the largest grey value


@dataclass(frozen=True)
class Snapshot:
    """The images of one task (or of the pre-training set), split once and for all."""

    name: str
    classes: tuple[str, ...]
    white: int
    splits: Mapping[str, Examples]
    origin: Mapping[str, object]  # how it was made: seed, shares, counts


def read_digits(path: Path) -> RawImages:
    """The handwritten digits: gzipped CSV, 64 grey values from 0 to 16 and the label in each row."""
    try:
        with gzip.open(path, "rt", encoding="ascii") as lines:
            table = np.loadtxt(lines, delimiter=",", dtype=np.int64, ndmin=2)
    except FileNotFoundError as exc:
        msg = f"Raw data '{path}' does not exist. Restore it (`git checkout -- {path}`) or name another file."
        raise DataError(msg) from exc
    except (OSError, EOFError, zlib.error, ValueError) as exc:
        msg = (
            f"Raw data '{path}' cannot be read ({exc}). It must be a gzipped CSV of 64 grey values (0 to 16) "
            "and a label in each row; restore the file or point `raw` at another."
        )
        raise DataError(msg) from exc
    if table.shape[1] != 65 or table.min() < 0 or table[:, :64].max() > DIGITS_WHITE:
        msg = (
            f"Raw data '{path}' has {table.shape[1]} columns of values from {table.min()} to {table.max()}, "
            "but a row must hold 64 grey values from 0 to 16 and a label. Restore the file."
        )
        raise DataError(msg)
    found, labels = np.unique(table[:, 64], return_inverse=True)
    images = table[:, :64].astype(np.uint8).reshape(-1, 8, 8)
    return RawImages(images, labels.astype(np.int64), tuple(map(str, found)), DIGITS_WHITE)


def read_image_folder(path: Path, *, size: int) -> RawImages:
    """A folder with one sub-folder of PNG or JPEG files a class, in grey, resized to size x size."""
    from PIL import Image, UnidentifiedImageError

    classes = sorted(
        entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    images, labels = [], []
    for label, name in enumerate(classes):
        for file in sorted((path / name).iterdir()):
            if file.suffix.lower() not in {".png", ".jpg", ".jpeg"}:
                continue
            try:
                with Image.open(file) as image:
                    images.append(np.asarray(image.convert("L").resize((size, size), Image.Resampling.BOX)))
            except (UnidentifiedImageError, OSError) as exc:
                msg = f"Image '{file}' cannot be read ({exc}). Replace it or take it out of the folder."
                raise DataError(msg) from exc
            labels.append(label)
    if not images:
        msg = f"Folder '{path}' holds no images. It needs one sub-folder of PNG or JPEG files a class."
        raise DataError(msg)
    return RawImages(np.stack(images), np.array(labels, dtype=np.int64), tuple(classes), FOLDER_WHITE)


def read_raw(path: Path, *, size: int) -> RawImages:
    """Labelled images from a folder of images, or else from a file in the format of the digits."""
    return read_image_folder(path, size=size) if path.is_dir() else read_digits(path)


def drop_duplicates(raw: RawImages) -> RawImages:
    """Each image once; an image that carries two different labels not at all."""
    flat = raw.images.reshape(len(raw.images), -1)
    _, first, group = np.unique(flat, axis=0, return_index=True, return_inverse=True)
    group = group.reshape(-1)
    contradicted = np.unique(group[raw.labels != raw.labels[first][group]])
    keep = np.sort(np.delete(first, contradicted))
    if len(keep) < len(raw.images):
        logger.info(
            "%d of %d images are duplicates and are left out", len(raw.images) - len(keep), len(raw.images)
        )
    return RawImages(raw.images[keep], raw.labels[keep], raw.classes, raw.white)


def split_class(n: int, *, seed: int, name: str, validation: float, test: float) -> dict[str, list[int]]:
    """Which of a class's n images go to which split; depends on the seed and the class's name alone.

    So a class that occurs in two tasks is split in the same way in both.
    """
    order = np.random.default_rng([seed, zlib.crc32(name.encode())]).permutation(n).tolist()
    n_test, n_validation = round(n * test), round(n * validation)
    return {
        "train": sorted(order[n_test + n_validation :]),
        "validation": sorted(order[n_test : n_test + n_validation]),
        "test": sorted(order[:n_test]),
    }


def make_task(
    raw: RawImages, name: str, classes: Sequence[str], *, seed: int, validation: float, test: float
) -> Snapshot:
    """The snapshot of the task that tells `classes` apart.

    Raises:
        DataError: the raw data lacks a class, or has too few images of one to fill every split.
    """
    distinct = drop_duplicates(raw)
    parts: dict[str, list[tuple[np.ndarray, int]]] = {"train": [], "validation": [], "test": []}
    for label, class_name in enumerate(classes):
        if class_name not in raw.classes:
            hint = suggest(class_name, raw.classes)
            msg = f"Task '{name}' needs class '{class_name}', which the raw data lacks; {hint}."
            raise DataError(msg)
        members = np.flatnonzero(distinct.labels == raw.classes.index(class_name))
        chosen = split_class(len(members), seed=seed, name=class_name, validation=validation, test=test)
        empty = [split for split, rows in chosen.items() if not rows]
        if empty:
            msg = (
                f"Class '{class_name}' of task '{name}' has {len(members)} distinct images, too few for the "
                f"split(s) {', '.join(empty)} at validation={validation}, test={test}. "
                "Add images or change the shares."
            )
            raise DataError(msg)
        for split, rows in chosen.items():
            parts[split].append((members[rows], label))
    splits = {
        split: Examples(
            distinct.images[np.concatenate([rows for rows, _ in part])],
            np.concatenate([np.full(len(rows), label, dtype=np.int64) for rows, label in part]),
        )
        for split, part in parts.items()
    }
    origin = {"seed": seed, "validation": validation, "test": test}
    return Snapshot(name, tuple(classes), raw.white, splits, origin)


def write_snapshot(snapshot: Snapshot, path: Path) -> None:
    """Write atomically; the same snapshot gives the same bytes."""
    tensors = {}
    for split, examples in snapshot.splits.items():
        tensors[f"{split}.images"] = np.ascontiguousarray(examples.images)
        tensors[f"{split}.labels"] = examples.labels
    description = {
        "name": snapshot.name,
        "classes": list(snapshot.classes),
        "white": snapshot.white,
        "origin": dict(snapshot.origin),
    }
    content = to_safetensors(tensors, metadata={METADATA_KEY: json.dumps(description, sort_keys=True)})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_snapshot(path: Path) -> Snapshot:
    """Read what `write_snapshot` wrote.

    Raises:
        DataError: the file is missing, truncated or no snapshot.
    """
    from safetensors import safe_open

    if not path.is_file():
        msg = (
            f"Snapshot '{path}' does not exist. Run `dvc repro` (or `mergeline run`, which does) to make it."
        )
        raise DataError(msg)
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})[METADATA_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        splits = {
            split: Examples(tensors[f"{split}.images"], tensors[f"{split}.labels"])
            for split in sorted({name.partition(".")[0] for name in tensors})
        }
        snapshot = Snapshot(about["name"], tuple(about["classes"]), about["white"], splits, about["origin"])
        _check_consistent(snapshot)
    except (SafetensorError, OSError, KeyError, ValueError) as exc:
        msg = (
            f"Snapshot '{path}' cannot be read ({type(exc).__name__}: {exc}). It is truncated or was not "
            "written by a data stage; delete it and run `dvc repro`."
        )
        raise DataError(msg) from exc
    return snapshot


def _check_consistent(snapshot: Snapshot) -> None:
    """Raise a ValueError where images and labels of a split do not belong together."""
    for split, (images, labels) in snapshot.splits.items():
        if images.ndim != 3 or images.dtype != np.uint8 or labels.shape != images.shape[:1]:
            msg = f"{split} has images {images.dtype}{images.shape} and labels {labels.dtype}{labels.shape}"
            raise ValueError(msg)
        if len(labels) == 0 or labels.min() < 0 or labels.max() >= len(snapshot.classes):
            msg = f"{split} is empty or has a label that is not one of the {len(snapshot.classes)} classes"
            raise ValueError(msg)
