"""Weights of the ends of an arc; imports no torch, as the kernels' route uses it too."""

from math import acos, sin


def arc_weights(cosine: float, position: float) -> tuple[float, float]:
    """sin((1−t)Ω)/sin Ω and sin(tΩ)/sin Ω, in float64; the cosine of Ω is not ±1."""
    angle = acos(cosine)
    return sin((1 - position) * angle) / sin(angle), sin(position * angle) / sin(angle)
