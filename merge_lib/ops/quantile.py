"""The exact k-th largest magnitude, or value, of a whole model, found by streaming over its tensors.

Non-negative floats are ordered like the integers that their bits spell; so are all once the bits of negative ones
and everybody's highest bit are turned over. Each pass counts sixteen of those bits, from the top, among the
entries that agree with what is already known: two passes for float32, four for float64, at half a megabyte an
expert, whatever the size of the model.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from jaxtyping import Float, Int
from torch import Tensor

_DIGIT_BITS = 16
_DIGITS = 1 << _DIGIT_BITS
_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


@dataclass(frozen=True)
class Thresholds:
    """For each expert what an entry must reach to be among the largest share of the model.

    Attributes:
        signed: the values themselves are compared, not their magnitudes.
    """

    share: float
    dtype: torch.dtype
    complete: bool
    known_bits: int
    prefix: Int[Tensor, " n"]  # the bits of the threshold that are known
    counts: Int[Tensor, " n digits"]  # of the next sixteen bits, in the running pass
    rank: Int[Tensor, " n"]  # how many entries with that prefix are kept; only after the first pass
    signed: bool = False

    @property
    def values(self) -> Float[Tensor, " n"]:
        """The thresholds, once complete; before that −1, or −∞ of signed ones, which keeps everything."""
        if self.known_bits == 0:
            return torch.full(self.prefix.shape, -float("inf") if self.signed else -1.0, dtype=self.dtype)
        bits = self.prefix
        if self.signed:
            top = _top_bit(self.dtype)
            bits = bits ^ top if self.dtype == torch.float64 else bits + top  # as it was, read with a sign
            bits = bits ^ ((bits >> 63) & ~top)
        return bits.to(_INTEGERS[self.dtype]).view(self.dtype)


def kept_count(total: int, share: float) -> int:
    """How many of `total` entries a share keeps: the nearest whole number, at least one."""
    return max(1, min(total, int(share * total + 0.5)))


def survivor_count(total: int, share: float) -> int:
    """How many remain where the k-th smallest is the least that is kept, k = ⌊(1 − share)·total⌋: one more.

    The share is taken as the decimal number that it was written as.
    """
    below = int((1 - Fraction(repr(share))) * total)
    return total - below + 1 if below else total


def begin_thresholds(
    count: int, dtype: torch.dtype, *, share: float, complete: bool = False, signed: bool = False
) -> Thresholds:
    """Nothing seen yet. A share of 1 keeps everything and needs no pass."""
    zeros = torch.zeros(count, dtype=torch.int64)
    return Thresholds(
        share=share,
        dtype=dtype,
        complete=complete or share == 1,
        known_bits=0,
        prefix=zeros,
        counts=torch.zeros(count, _DIGITS, dtype=torch.int64),
        rank=zeros,
        signed=signed,
    )


def fold_thresholds(state: Thresholds, task_vectors: Float[Tensor, " n *shape"]) -> Thresholds:
    """Count one tensor."""
    shift = state.dtype.itemsize * 8 - state.known_bits - _DIGIT_BITS
    added = []
    for row, prefix in zip(task_vectors, state.prefix.tolist(), strict=True):
        keys = _keys(row.reshape(-1), signed=state.signed)
        if state.known_bits:
            known = (keys >> (shift + _DIGIT_BITS)).bitwise_and_((1 << state.known_bits) - 1)
            keys = keys[known == prefix]
        digits = (keys >> shift).bitwise_and_(_DIGITS - 1)
        added.append(torch.bincount(digits, minlength=_DIGITS))
    return replace(state, counts=torch.stack(added).add_(state.counts))


def _keys(values: Float[Tensor, " size"], *, signed: bool) -> Int[Tensor, " size"]:
    """Integers whose bits, read without a sign, are ordered like the values, or like their magnitudes."""
    if not signed:
        return values.abs().view(_INTEGERS[values.dtype])
    bits, top = values.view(_INTEGERS[values.dtype]), _top_bit(values.dtype)
    negative = bits >> (values.dtype.itemsize * 8 - 1)  # all ones, else 0
    return negative.bitwise_and_(~top).bitwise_xor_(bits).bitwise_xor_(top)


def _top_bit(dtype: torch.dtype) -> int:
    """The highest bit, which is that of the sign, as a signed number."""
    return -(1 << (dtype.itemsize * 8 - 1))


def close_thresholds(state: Thresholds, count: Callable[[int, float], int] = kept_count) -> Thresholds:
    """End a pass: sixteen more bits are known; `count` says how many entries of a total a share keeps."""
    rank = state.rank
    if state.known_bits == 0:
        totals = state.counts.sum(dim=1).tolist()
        rank = torch.tensor([count(total, state.share) if total else 0 for total in totals])
    from_top = state.counts.flip(1).cumsum(1)  # [n, digits], the largest digit first
    place = (from_top < rank[:, None]).sum(dim=1)
    above = torch.where(place > 0, from_top.gather(1, (place - 1).clamp(min=0)[:, None])[:, 0], 0)
    known_bits = state.known_bits + _DIGIT_BITS
    return replace(
        state,
        complete=known_bits == state.dtype.itemsize * 8,
        known_bits=known_bits,
        prefix=(state.prefix << _DIGIT_BITS) | (_DIGITS - 1 - place),
        counts=torch.zeros_like(state.counts),
        rank=rank - above,
    )


def join_thresholds(state: Thresholds, other: Thresholds) -> Thresholds:
    """What two have counted in the same pass, each from its beginning."""
    return replace(state, counts=state.counts + other.counts)


def tensor_threshold(row: Float[Tensor, " *shape"], share: float) -> float:
    """The same threshold for one tensor alone."""
    total = row.numel()
    if total == 0 or share == 1:
        return -1.0
    return row.abs().reshape(-1).kthvalue(total - kept_count(total, share) + 1).values.item()
