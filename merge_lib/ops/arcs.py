"""Points on arcs and spheres, as weights of the vectors between which they lie.

Whatever the size of the vectors, only their lengths and angles are needed. Imports no torch, as the kernels' route uses
it too.
"""

from math import acos, sin

import numpy as np

_CANCELLED = 1e-8  # length of a mean of unit vectors that has no direction
_STEPS = 1000
_STILL = 1e-13


def arc_weights(cosine: float, position: float) -> tuple[float, float]:
    """sin((1−t)Ω)/sin Ω and sin(tΩ)/sin Ω, in float64; the cosine of Ω is not ±1."""
    angle = acos(cosine)
    return sin((1 - position) * angle) / sin(angle), sin(position * angle) / sin(angle)


def mean_direction(cosines: np.ndarray) -> np.ndarray | None:
    """The weights of unit vectors whose sum is their mean at length 1; None where they cancel.

    Args:
        cosines: float64 [n, n], of the angles between the unit vectors.
    """
    count = len(cosines)
    length = _length(np.full(count, 1 / count), cosines)
    return None if length < _CANCELLED else np.full(count, 1 / (count * length))


def karcher_mean(cosines: np.ndarray) -> np.ndarray | None:
    """The weights of unit vectors whose sum is the point of the sphere with the least squared angles to them.

    p ← exp_p(mean_i log_p(u_i)) from the mean direction, with p = Σ_i a_i u_i, until no weight moves by more than
    1e-13, or a thousand times. Vectors opposite to p have no direction there and are passed over.

    Args:
        cosines: float64 [n, n], of the angles between the unit vectors.

    Returns:
        float64 [n]; None where the unit vectors cancel.
    """
    weights = mean_direction(cosines)
    if weights is None:
        return None
    for _ in range(_STEPS):
        moved = _step(weights, cosines)
        still = np.abs(moved - weights).max() <= _STILL
        weights = moved
        if still:
            break
    return weights


def _step(weights: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    """One step along the mean of the tangents."""
    seen = np.clip(cosines @ weights, -1, 1)
    angles = np.arccos(seen)
    sines = np.sin(angles)
    stretch = np.where(sines > _CANCELLED, angles / np.where(sines > _CANCELLED, sines, 1), seen > 0)
    tangent = (stretch - (stretch * seen).sum() * weights) / len(weights)
    length = _length(tangent, cosines)
    moved = np.cos(length) * weights + np.sinc(length / np.pi) * tangent
    return moved / _length(moved, cosines)


def _length(weights: np.ndarray, cosines: np.ndarray) -> float:
    return float(np.sqrt(max(weights @ cosines @ weights, 0.0)))
