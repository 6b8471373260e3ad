"""Which entries of an adapter matter: those above one quantile of the scores of all of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from merge_lib.errors import MethodInputError
from merge_lib.ops.quantile import begin_thresholds, close_thresholds, fold_thresholds
from merge_lib.recurrent.tensors import all_finite, check_alike
from merge_lib.types import StateDict

_PIECE = 1 << 20  # entries that are counted at once at least


@dataclass(frozen=True)
class Selection:
    """The entries above a threshold.

    Attributes:
        threshold: the quantile of all scores.
        masks: true where a score is greater, by tensor name.
    """

    threshold: float
    masks: StateDict

    @property
    def count(self) -> int:
        """How many are selected."""
        return sum(int(mask.sum()) for mask in self.masks.values())


def select(scores: StateDict, quantile: float = 0.8) -> Selection:
    """The entries whose score is strictly greater than the quantile of all scores together.

    Of p entries at most ⌈(1 − quantile)·p⌉ are selected, and none where all scores are equal.

    Args:
        scores: one for each entry, by tensor name: of trainable tensors only.
        quantile: share of entries below, [0, 1].

    Raises:
        MethodInputError: there is no entry, or a score is not finite.
    """
    threshold = global_quantile(scores, quantile)
    # in float64: next to the threshold a float32 comparison would round it
    return Selection(threshold, {name: tensor.double() > threshold for name, tensor in scores.items()})


def global_quantile(values: StateDict, quantile: float) -> float:
    """The quantile of all entries of all tensors together, of any number of them.

    With the p entries sorted, v_0 ≤ … ≤ v_{p−1}, and h = quantile·(p − 1): v_⌊h⌋ + (h − ⌊h⌋)(v_{⌊h⌋+1} − v_⌊h⌋),
    linear interpolation as of `torch.quantile`, whose limit of 2²⁴ entries does not hold here: v_⌊h⌋ is found by
    counting, tensor by tensor, on the CPU. The quantile counts as the decimal number that it was written as.

    Args:
        values: by tensor name.
        quantile: [0, 1].

    Raises:
        MethodInputError: there is no entry, or one is not finite.
    """
    check_alike(scores=values)
    total = sum(tensor.numel() for tensor in values.values())
    if total == 0:
        raise MethodInputError("The trainable tensors have no entry. Give at least one that is not empty.")
    if not all_finite(values):
        bad = sorted(name for name, tensor in values.items() if not torch.isfinite(tensor).all())
        raise MethodInputError(
            f"Scores of {', '.join(repr(name) for name in bad)} are not finite. A quantile needs finite ones. "
            "Leave steps out whose gradients are not."
        )
    place = Fraction(repr(quantile)) * (total - 1)
    below = int(place)
    lower = _sorted_value(values, total - below)
    part = float(place - below)
    return lower + part * (_value_after(values, lower, below) - lower) if part else lower


def _sorted_value(values: StateDict, rank: int) -> float:
    """The `rank`-th largest of all, from 1."""
    is_wide = any(tensor.dtype == torch.float64 for tensor in values.values())
    dtype = torch.float64 if is_wide else torch.float32
    state = begin_thresholds(1, dtype, share=0.5, signed=True)  # the share has no say: the rank is given
    while not state.complete:
        for piece in _pieces(values, dtype):
            state = fold_thresholds(state, piece)
        state = close_thresholds(state, lambda _total, _share: rank)
    return float(state.values[0])


def _pieces(values: StateDict, dtype: torch.dtype) -> Iterator[Tensor]:
    """All entries on the CPU, [1, count] each: small tensors together, for a piece costs more than its entries."""
    held: list[Tensor] = []
    count = 0
    for tensor in values.values():
        held.append(tensor.detach().to("cpu", dtype).reshape(1, -1))
        count += tensor.numel()
        if count >= _PIECE:
            yield torch.cat(held, dim=1)
            held, count = [], 0
    if held:
        yield torch.cat(held, dim=1)


def _value_after(values: StateDict, lower: float, below: int) -> float:
    """v_{below+1}, given that `lower` is v_below."""
    wide = [tensor.double() for tensor in values.values()]
    if sum(int((tensor <= lower).sum()) for tensor in wide) > below + 1:
        return lower
    return min(float(above.min()) for above in (_above(tensor, lower) for tensor in wide) if above.numel())


def _above(tensor: Tensor, lower: float) -> Tensor:
    return tensor[tensor > lower]
