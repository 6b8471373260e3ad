"""Images of snapshots as a model takes them, and whether it can take them."""

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.errors import DataError
from merge_lib.workloads.vision.config import ViTConfig
from merge_lib.workloads.vision.data import Examples, Snapshot


def scaled(examples: Examples, snapshot: Snapshot, *, channels: int = 1) -> Float[Tensor, "n *k h w"]:
    """The images as numbers from -1 (paper) to 1: [n, h, w] for 1 channel, [n, 3, h, w] for 3 (grey repeated)."""
    images = torch.from_numpy(examples.images).float() * (2.0 / snapshot.white) - 1.0
    if channels == 1:
        return images
    return images.movedim(-1, 1).contiguous() if images.ndim == 4 else torch.stack([images] * channels, dim=1)


def check_snapshot(snapshot: Snapshot, model: ViTConfig, splits: set[str]) -> None:
    """Refuse a snapshot that lacks a split or whose images the model cannot take.

    Raises:
        DataError: it does.
    """
    if missing := sorted(splits - snapshot.splits.keys()):
        msg = f"Snapshot '{snapshot.name}' lacks {', '.join(missing)}; delete it and run `dvc repro`."
        raise DataError(msg)
    size = model.image_size
    shapes = {examples.images.shape[1:3] for examples in snapshot.splits.values()}
    if shapes != {(size, size)}:
        msg = (
            f"Snapshot '{snapshot.name}' has images of {sorted(shapes)} pixels, but the model takes "
            f"({size}, {size}). Set `model.image_size` to the snapshots' size, or make them anew."
        )
        raise DataError(msg)
    if model.channels == 1 and any(examples.images.ndim == 4 for examples in snapshot.splits.values()):
        msg = (
            f"Snapshot '{snapshot.name}' has images in colour, but the model takes grey ones. "
            "Set `model.channels` to 3, or make the snapshot with `colour: false`."
        )
        raise DataError(msg)
