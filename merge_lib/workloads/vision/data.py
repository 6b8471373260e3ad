"""Task snapshots: duplicates removed, stratified, no image in two splits. Needs numpy only.

A snapshot is one safetensors file with `<split>.images` (uint8 [n, h, w], 0 = paper, or [n, h, w, 3] in colour) and
`<split>.labels` (int64 [n], index into `classes`) for each split, and one metadata key, "mergeline", of sorted JSON.
"""

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8
from safetensors import SafetensorError
from safetensors.numpy import save as to_safetensors

from merge_lib.errors import DataError, suggest

logger = logging.getLogger(__name__)

METADATA_KEY = "mergeline"
DTYPES = {"U8": np.uint8, "I64": np.int64, "F32": np.float32}  # of a snapshot's arrays, by safetensors' names
DIGITS_WHITE = 16  # the handwritten digits have 17 grey levels: pixels set in a block of 4 x 4

Images = UInt8[np.ndarray, "n h w *k"]  # *k: 3 for red, green, blue; nothing for grey
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
    white: int  # the largest value of a pixel
    is_test: Bool[np.ndarray, " n"] | None = None  # the source's own test images; None: it has no such part


@dataclass(frozen=True)
class Snapshot:
    """The images of one task (or of the pre-training set), split once and for all."""

    name: str
    classes: tuple[str, ...]
    white: int
    splits: Mapping[str, Examples]
    origin: Mapping[str, object]  # how it was made: seed, shares, counts
    names: tuple[str, ...] = ()  # how texts call each class; empty: as `classes` do
    templates: tuple[
        str, ...
    ] = ()  # of texts about an image, each with {} for its class; empty: none are known


def drop_duplicates(raw: RawImages) -> RawImages:
    """Each image once; an image that carries two different labels not at all."""
    first: dict[bytes, int] = {}  # where each image was seen first
    contradicted: set[int] = set()
    for place, image in enumerate(raw.images):
        seen = first.setdefault(hashlib.blake2b(image.tobytes(), digest_size=16).digest(), place)
        if raw.labels[place] != raw.labels[seen]:
            contradicted.add(seen)
    keep = np.array([place for place in first.values() if place not in contradicted], dtype=np.int64)
    if len(keep) < len(raw.images):
        logger.info(
            "%d of %d images are duplicates and are left out", len(raw.images) - len(keep), len(raw.images)
        )
    is_test = None if raw.is_test is None else raw.is_test[keep]
    return RawImages(raw.images[keep], raw.labels[keep], raw.classes, raw.white, is_test)


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
        chosen = _split_members(distinct, members, seed, class_name, validation, test)
        empty = [split for split, rows in chosen.items() if not rows]
        if empty:
            msg = (
                f"Class '{class_name}' of task '{name}' has {len(members)} distinct images, too few for the "
                f"split(s) {', '.join(empty)} at validation={validation}, test={test}. "
                "Add images or change the shares."
            )
            raise DataError(msg)
        for split, rows in chosen.items():
            parts[split].append((rows, label))
    splits = {
        split: Examples(
            distinct.images[np.concatenate([rows for rows, _ in part])],
            np.concatenate([np.full(len(rows), label, dtype=np.int64) for rows, label in part]),
        )
        for split, part in parts.items()
    }
    origin = {"seed": seed, "validation": validation, "test": test}
    return Snapshot(name, tuple(classes), raw.white, splits, origin)


def _split_members(
    raw: RawImages, members: np.ndarray, seed: int, name: str, validation: float, test: float
) -> dict[str, list[int]]:
    """Which rows of a class go to which split; the source's own test part, if there is one, is the test split."""
    if raw.is_test is None:
        places = split_class(len(members), seed=seed, name=name, validation=validation, test=test)
        return {split: members[rows].tolist() for split, rows in places.items()}
    own, rest = members[raw.is_test[members]], members[~raw.is_test[members]]
    places = split_class(len(rest), seed=seed, name=name, validation=validation, test=0.0)
    return {split: rest[rows].tolist() for split, rows in places.items()} | {"test": own.tolist()}


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
    description |= {"names": list(snapshot.names)} if snapshot.names else {}
    description |= {"templates": list(snapshot.templates)} if snapshot.templates else {}
    content = to_safetensors(tensors, metadata={METADATA_KEY: json.dumps(description, sort_keys=True)})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_snapshot(path: Path) -> Snapshot:
    """Read what `write_snapshot` wrote; images are mapped into memory and come from the file when they are used.

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
        tensors = _mapped(path)
        splits = {
            split: Examples(tensors[f"{split}.images"], tensors[f"{split}.labels"])
            for split in sorted({name.partition(".")[0] for name in tensors})
        }
        texts = (tuple(about.get(key, ())) for key in ("names", "templates"))
        told = (about["name"], tuple(about["classes"]), about["white"], splits, about["origin"])
        snapshot = Snapshot(*told, *texts)
        _check_consistent(snapshot)
    except (SafetensorError, OSError, KeyError, ValueError) as exc:
        msg = (
            f"Snapshot '{path}' cannot be read ({type(exc).__name__}: {exc}). It is truncated or was not "
            "written by a data stage; delete it and run `dvc repro`."
        )
        raise DataError(msg) from exc
    return snapshot


def _mapped(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file that was found to be whole; writing to them does not change the file."""
    content = np.memmap(path, dtype=np.uint8, mode="c").view(np.ndarray)
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8:start].tobytes())
    return {
        name: content[start + place["data_offsets"][0] : start + place["data_offsets"][1]]
        .view(DTYPES[place["dtype"]])
        .reshape(place["shape"])
        for name, place in header.items()
        if name != "__metadata__"
    }


def _check_consistent(snapshot: Snapshot) -> None:
    """Raise a ValueError where images and labels of a split do not belong together."""
    for split, (images, labels) in snapshot.splits.items():
        is_image = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)
        if not is_image or images.dtype != np.uint8 or labels.shape != images.shape[:1]:
            msg = f"{split} has images {images.dtype}{images.shape} and labels {labels.dtype}{labels.shape}"
            raise ValueError(msg)
        if len(labels) == 0 or labels.min() < 0 or labels.max() >= len(snapshot.classes):
            msg = f"{split} is empty or has a label that is not one of the {len(snapshot.classes)} classes"
            raise ValueError(msg)
