"""Images of snapshots as CLIP takes them, some at a time: the snapshot stays as it is, in whole bytes.

Legend: b images, h x w pixels, k = 3 colours or none where they are grey, s side that the model takes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Normal:
    """Mean and deviation of red, green and blue in [0, 1], by which images are normalised; those of CLIP."""

    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD

    def applied(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """(image - mean) / deviation."""
        mean, std = (
            torch.tensor(values, device=images.device).view(3, 1, 1) for values in (self.mean, self.std)
        )
        return (images - mean) / std

    def undone(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Back to [0, 1]."""
        mean, std = (
            torch.tensor(values, device=images.device).view(3, 1, 1) for values in (self.mean, self.std)
        )
        return (images * std + mean).clamp(0.0, 1.0)


def pixels(
    images: UInt8[np.ndarray, "b h w *k"], white: int, normal: Normal, *, size: int | None = None
) -> Float[Tensor, "b 3 s s"]:
    """Normalised images; grey ones in all three colours, and brought to `size` by bicubic interpolation.

    Args:
        images: of a snapshot.
        white: the largest value of a pixel.
        normal: mean and deviation.
        size: side that the model takes; None leaves it as it is.
    """
    shades = torch.from_numpy(np.ascontiguousarray(images)).float() / white
    coloured = shades.movedim(-1, 1) if shades.ndim == 4 else shades[:, None].expand(-1, 3, -1, -1)
    if size is not None and coloured.shape[-1] != size:
        coloured = resized(coloured, size)
    return normal.applied(coloured)


def resized(images: Float[Tensor, "b 3 h w"], size: int) -> Float[Tensor, "b 3 s s"]:
    """Bicubic, with the pixels that are lost smoothed into those that stay; values stay in [0, 1]."""
    return functional.interpolate(
        images, size=(size, size), mode="bicubic", align_corners=False, antialias=True
    ).clamp(0.0, 1.0)


def cropped(
    images: Float[Tensor, "b 3 s s"], smallest: float, generator: torch.Generator
) -> Float[Tensor, "b 3 s s"]:
    """A random window of each image, brought back to the whole size: augmentation.

    Args:
        images: square.
        smallest: area of a window, as share of the image; the largest is all of it. 1 changes nothing.
        generator: draws windows and places.
    """
    if smallest == 1.0:
        return images
    n = len(images)
    share = smallest + (1.0 - smallest) * torch.rand(n, generator=generator)
    half = share.sqrt()[:, None]  # of the side, which reaches from -1 to 1
    middle = (2.0 * torch.rand(n, 2, generator=generator) - 1.0) * (1.0 - half)
    windows = torch.zeros(n, 2, 3)
    windows[:, 0, 0] = windows[:, 1, 1] = half[:, 0]
    windows[:, :, 2] = middle
    grid = functional.affine_grid(windows, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False)


def shifted(
    images: Float[Tensor, "b 3 s s"], most: int, generator: torch.Generator
) -> Float[Tensor, "b 3 s s"]:
    """Each image moved by up to `most` pixels each way, its border drawn on: augmentation."""
    if most == 0:
        return images
    padded = functional.pad(images, (most,) * 4, mode="replicate")
    n, _, h, w = images.shape
    down, right = torch.randint(2 * most + 1, (2, n), generator=generator)
    rows = (down[:, None] + torch.arange(h))[:, :, None]  # [b, s, 1]
    columns = (right[:, None] + torch.arange(w))[:, None, :]  # [b, 1, s]
    return padded[torch.arange(n)[:, None, None], :, rows, columns].movedim(-1, 1)
