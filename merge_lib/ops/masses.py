"""Exact sums of magnitudes: the same to the last bit however the entries are cut into pieces.

A float is an integer times a power of two. For each power the integers are added, in halves, whose sums over up
to 2^26 entries are whole numbers that float64 holds.
"""

from collections.abc import Iterable
from fractions import Fraction

import torch
from jaxtyping import Float, Int
from torch import Tensor

_HALF = 27  # bits
_AT_ONCE = 1 << 26  # entries
_FORMATS = {torch.float32: (torch.int32, 23, 1 << 8), torch.float64: (torch.int64, 52, 1 << 11)}


def count_magnitudes(rows: Iterable[Float[Tensor, " *_"]]) -> Int[Tensor, " n powers halves"]:
    """For each row the sums of the integers, by power of two; adds up over pieces of a tensor and over tensors."""
    return torch.stack(
        [sum(_count(piece) for piece in row.abs().reshape(-1).split(_AT_ONCE)) for row in rows]  # type: ignore[misc]
    )


def exact_masses(counts: Int[Tensor, " n powers halves"]) -> list[int]:
    """The sums of magnitudes, as whole multiples of the smallest float of the rows' dtype."""
    return [
        sum(
            part << (max(power - 1, 0) + place * _HALF)
            for power, halves in enumerate(row)
            for place, part in enumerate(halves)
        )
        for row in counts.tolist()
    ]


def count_moves(
    task_vectors: Float[Tensor, " n *shape"], merged: Float[Tensor, " *shape"]
) -> tuple[Int[Tensor, " 1 powers halves"], Int[Tensor, " 1 powers halves"]]:
    """Counts for the magnitude of the sum of the task vectors, and for that of the merged one, of float64 values."""
    total = task_vectors[0].double()
    for row in task_vectors[1:]:
        total = total + row
    return count_magnitudes(total[None]), count_magnitudes(merged.double()[None])


def mean_share(summed: Tensor, merged: Tensor, experts: int) -> float:
    """‖Σ_t τ_t‖₁ / (T·‖Δ‖₁) from their counts; 1 / T where nothing moved."""
    above, below = exact_masses(summed)[0], exact_masses(merged)[0]
    return (float(Fraction(above, below)) if below else 1.0) / experts


def _count(magnitudes: Float[Tensor, " size"]) -> Int[Tensor, " powers halves"]:
    integer, mantissa_bits, powers = _FORMATS[magnitudes.dtype]
    bits = magnitudes.view(integer)
    power = bits >> mantissa_bits
    mantissa = (bits & ((1 << mantissa_bits) - 1)) | ((power > 0).to(integer) << mantissa_bits)
    halves = [mantissa] if mantissa_bits < _HALF else [mantissa & ((1 << _HALF) - 1), mantissa >> _HALF]
    sums = [torch.bincount(power, weights=half.double(), minlength=powers) for half in halves]
    return torch.stack(sums, dim=1).long()
