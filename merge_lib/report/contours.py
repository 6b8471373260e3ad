"""Filled contours as SVG paths: levels with round numbers, bands from the lowest up."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

MOST_LEVELS = 9
_STEPS = (1.0, 2.0, 5.0)


def round_steps(low: float, high: float, most: int) -> list[float]:
    """At most `most` equally spaced round numbers strictly between two values: multiples of 1, 2 or 5 · 10^n."""
    if not high > low:
        return []
    for step in (s * 10.0**n for n in range(-12, 13) for s in _STEPS):
        first, last = np.floor(low / step + 1e-9) + 1, np.ceil(high / step - 1e-9) - 1
        if last - first + 1 <= most:
            return [float(f"{place * step:.12g}") for place in np.arange(first, last + 1)]
    return []


def loss_levels(values: np.ndarray) -> list[float]:
    """Levels of a loss: 1, 2, 5, 10, … where it spans more than a factor of ten, else equally spaced."""
    known = values[np.isfinite(values)]
    low, high = float(known.min()), float(known.max())
    if low <= 0 or high / low < 10:
        return round_steps(low, high, MOST_LEVELS)
    every = [float(f"{s * 10.0**n:.12g}") for n in range(-12, 13) for s in _STEPS]
    inside = [level for level in every if low < level < high]
    tens = [level for level in inside if f"{level:e}".startswith("1.0")]
    return inside[-MOST_LEVELS:] if len(inside) <= MOST_LEVELS + 3 or len(tens) < 3 else tens[-MOST_LEVELS:]


def share_levels(values: np.ndarray) -> list[float]:
    """Levels of an accuracy, in [0, 1]."""
    known = values[np.isfinite(values)]
    return round_steps(float(known.min()), float(known.max()), MOST_LEVELS)


def bands(
    values: np.ndarray, across: Sequence[float], down: Sequence[float], levels: Sequence[float]
) -> list[str]:
    """SVG paths of all that lies at or above each level, in order: each is painted over the one before.

    Between the measured points values are interpolated linearly. What is not finite counts as the highest.

    Args:
        values: [rows, columns].
        across: pixel of each column.
        down: pixel of each row.
        levels: from the lowest.
    """
    from contourpy import contour_generator

    highest = np.nanmax(np.where(np.isfinite(values), values, -np.inf))
    known = np.where(np.isfinite(values), values, highest)
    generator = contour_generator(np.asarray(across), np.asarray(down), known, fill_type="OuterOffset")
    return [_paths(*generator.filled(level, np.inf)) for level in levels]


def _paths(points: Sequence[np.ndarray], offsets: Sequence[np.ndarray]) -> str:
    """Each outline and each hole of the polygons closed; to be filled by the even-odd rule."""
    loops = [
        outline[start:end]
        for outline, ends in zip(points, offsets, strict=True)
        for start, end in pairwise(ends)
    ]
    return "".join(f"M{'L'.join(f'{x:.1f} {y:.1f}' for x, y in loop[:-1])}Z" for loop in loops)
