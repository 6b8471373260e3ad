"""The masks of task vectors on a device, as the kernels of `task_vectors` make them."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from merge_lib.kernels import calls as layout
from merge_lib.streaming.on_device.chance import halves

Round = Callable[[Tensor], Tensor]


def magnitude_bits(values: Tensor) -> Tensor:
    """The bits of the float32 magnitudes, int32; they are ordered like the magnitudes."""
    return values.view(torch.int32) & 0x7FFFFFFF


def keep_band(values: Tensor, words: np.ndarray, first: int) -> Tensor:
    """Ones where a magnitude lies between two limits, zeros elsewhere; entries that equal one by their offset.

    Args:
        values: [count], float32.
        words: the settings of an expert, as `merge_lib.kernels.calls` lays them out.
        first: the piece's offset in the tensor.
    """
    low, high = int(words[layout.LOW]), int(words[layout.HIGH])
    sizes = magnitude_bits(values)
    keeps_before = not words[layout.LOW_KEEPS_LATER]
    above = (sizes > low) | ((sizes == low) & (_before(words[layout.LOW_CUT], first, values) == keeps_before))
    below = (sizes < high) | ((sizes == high) & _before(words[layout.HIGH_CUT], first, values))
    return (above & below).to(torch.float32)


def _before(cut: int, first: int, values: Tensor) -> Tensor:
    """Which entries of a piece lie before an offset in the tensor."""
    count = len(values)
    within = min(max(int(cut) - first, 0), count)
    return torch.arange(count, device=values.device) < within


def keep_drawn(words: np.ndarray, first: int, count: int, device: torch.device) -> Tensor:
    """Ones where the 32-bit draw is below the limit: the upper sixteen bits, and where they equal it the lower."""
    key, stream = int(words[layout.KEY]), int(words[layout.KEY_STREAM])
    upper, lower = divmod(int(words[layout.LIMIT]), 1 << 16)
    drawn = halves(key, stream, first, count, device)
    kept = drawn < upper
    if lower:
        kept = kept | ((drawn == upper) & (halves(key, stream, first, count, device, second=True) < lower))
    return kept.to(torch.float32)


def variance(rows: Sequence[Tensor], rounded: Round) -> Tensor:
    """Over the experts, entry by entry, around their mean; the sums in float32, rounded once."""
    experts = torch.full((), len(rows), dtype=torch.float32, device=rows[0].device)
    mean = rows[0]
    for row in rows[1:]:
        mean = mean + row
    mean = mean / experts
    total = torch.zeros_like(mean)
    for row in rows:
        away = row - mean
        total = total + away * away
    return rounded(total / experts)
