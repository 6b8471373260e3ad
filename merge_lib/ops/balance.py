"""How task vectors compete for each weight: PCB-Merging's scores, and what must be known of the model for them."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.ops.quantile import (
    Thresholds,
    begin_thresholds,
    close_thresholds,
    fold_thresholds,
    join_thresholds,
)
from merge_lib.ops.sums import per_row, sum_rows

Inter = Literal["sum", "pairs"]


@dataclass(frozen=True)
class Competition:
    """What passes over the whole model find.

    Attributes:
        low: of each expert's magnitudes the one below which all are raised to it.
        high: the one above which all are lowered to it.
        floor: the score that an entry must exceed to be kept.
        smallest: each expert's smallest score.
        largest: its largest.
    """

    inter: Inter
    low: Thresholds
    high: Thresholds
    floor: Thresholds
    smallest: Float[Tensor, " n"]
    largest: Float[Tensor, " n"]
    complete: bool = False

    @property
    def floors(self) -> Float[Tensor, " n"]:
        """The scores that weigh nothing, and all below."""
        return self.smallest if self.floor.share == 1 else self.floor.values


def begin_competition(
    count: int, dtype: torch.dtype, *, density: float, tails: float, inter: Inter
) -> Competition:
    """Nothing seen yet.

    Args:
        count: how many experts.
        dtype: of the arithmetic.
        density: share of each expert's entries that are kept.
        tails: share of the smallest, and of the largest, magnitudes that are clamped, in (0, 0.5).
        inter: how an entry is compared with those of the others.

    Returns:
        A state that first finds where magnitudes are clamped, then the scores' range.
    """
    return Competition(
        inter=inter,
        low=begin_thresholds(count, dtype, share=1 - tails),
        high=begin_thresholds(count, dtype, share=tails),
        floor=begin_thresholds(count, dtype, share=density, signed=True),
        smallest=torch.full((count,), float("inf"), dtype=dtype),
        largest=torch.full((count,), -float("inf"), dtype=dtype),
    )


def fold_competition(state: Competition, task_vectors: Float[Tensor, " n *shape"]) -> Competition:
    """See one tensor."""
    if not state.low.complete:
        return _fold_limits(state, task_vectors)
    scores = compete(task_vectors, state).reshape(len(task_vectors), task_vectors[0].numel())
    floor = state.floor if state.floor.complete else fold_thresholds(state.floor, scores)
    if scores.shape[1] == 0 or state.floor.known_bits:  # nothing to see, or seen in the pass before
        return replace(state, floor=floor)
    smallest = torch.minimum(state.smallest, scores.amin(dim=1))
    return replace(
        state, floor=floor, smallest=smallest, largest=torch.maximum(state.largest, scores.amax(dim=1))
    )


def _fold_limits(state: Competition, task_vectors: Float[Tensor, " n *shape"]) -> Competition:
    """See one tensor while the limits of magnitudes are looked for, whose first counts are the same."""
    low = fold_thresholds(state.low, task_vectors)
    if state.low.known_bits == 0:
        return replace(state, low=low, high=replace(state.high, counts=low.counts))
    return replace(state, low=low, high=fold_thresholds(state.high, task_vectors))


def join_competition(state: Competition, other: Competition) -> Competition:
    """What two have seen in the same pass, each from its beginning."""
    thresholds = {
        name: join_thresholds(getattr(state, name), getattr(other, name)) for name in ("low", "high", "floor")
    }
    smallest, largest = (
        torch.minimum(state.smallest, other.smallest),
        torch.maximum(state.largest, other.largest),
    )
    return replace(state, **thresholds, smallest=smallest, largest=largest)


def close_competition(state: Competition) -> Competition:
    """End a pass."""
    if not state.low.complete:
        return replace(state, low=close_thresholds(state.low), high=close_thresholds(state.high))
    floor = state.floor if state.floor.complete else close_thresholds(state.floor)
    return replace(state, floor=floor, complete=floor.complete)


def clamp_magnitudes(
    task_vectors: Float[Tensor, " n *shape"], state: Competition
) -> Float[Tensor, " n *shape"]:
    """Magnitudes at least the low and at most the high one of their expert; zeros stay zero."""
    low, high = (per_row(limit.values, task_vectors) for limit in (state.low, state.high))
    return task_vectors.abs().clamp_(low, high).mul_(task_vectors.sign())


def compete(task_vectors: Float[Tensor, " n *shape"], state: Competition) -> Float[Tensor, " n *shape"]:
    """Each entry's score: how large it is within its task vector, times how the others' entries agree with it.

    exp(n (m² − 1)) · tanh(τ_i Σ_k τ_k), or · Σ_k tanh(τ̂_i τ̂_k) with inter "pairs"; m is the clamped magnitude
    between its expert's smallest and largest, in [0, 1], and τ̂ that with its sign. Without the factor e^−n,
    which changes no comparison, many experts would leave the finite numbers.
    """
    low, high = (per_row(limit.values, task_vectors) for limit in (state.low, state.high))
    span = torch.where(high > low, high - low, 1.0)
    place = task_vectors.abs().clamp_(low, high).sub_(low).div_(span)
    if state.inter == "sum":
        agreement = (task_vectors * sum_rows(task_vectors)).tanh_()
    else:
        signed = task_vectors.sign() * place
        agreement = torch.stack([sum_rows((row * signed).tanh_()) for row in signed])
    within = place.square_().sub_(1).mul_(len(task_vectors)).exp_()
    return within.mul_(agreement)


def weigh(scores: Float[Tensor, " n *shape"], state: Competition) -> Float[Tensor, " n *shape"]:
    """0 at an expert's floor and below, 1 at its largest score.

    Where floor and largest are equal, scores from there on weigh 1, but for those that are 0.
    """
    floor, largest = (per_row(limit, scores) for limit in (state.floors, state.largest))
    span = torch.where(largest > floor, largest - floor, 1.0)
    weights = (scores - floor).div_(span).clamp_(min=0)
    for row in (state.largest <= state.floors).nonzero()[:, 0].tolist():
        weights[row] = (scores[row] >= state.floors[row]) & (scores[row] != 0)
    return weights
