"""One vector that stands for several: its masks and rescalers give each of them back, as far as it holds them.

    s_j = +1 where Σ_i a_{i,j} > 0, else −1;   u_j = s_j · max_i {|a_{i,j}| : a_{i,j} s_j > 0}, 0 where there is none;
    M_{i,j} = [a_{i,j} s_j > 0];   a_i is given back as λ_i M_i ⊙ u.

EMR-Merging and ConDU share it (Huang et al., "EMR-Merging", NeurIPS 2024).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from operator import add
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from merge_lib.ops.sums import exact_magnitude_sum, sum_rows

Rescaler = Literal["global_l1", "official"]
ZeroSumSign = Literal["minus", "plus"]


def unify(task_vectors: Float[Tensor, " n *shape"]) -> Float[Tensor, " *shape"]:
    """Of every entry the largest magnitude among those that have the sign of the sum; a sum of 0 counts as minus."""
    return unify_extremes(sum_rows(task_vectors), task_vectors.amax(dim=0), task_vectors.amin(dim=0))


def unify_extremes(
    total: Float[Tensor, " *shape"],
    largest: Float[Tensor, " *shape"],
    smallest: Float[Tensor, " *shape"],
    *,
    zero_sum_sign: ZeroSumSign = "minus",
) -> Float[Tensor, " *shape"]:
    """The same from the sum, the largest and the smallest of each entry, which can be kept as vectors arrive."""
    positive = total > 0 if zero_sum_sign == "minus" else total >= 0
    return torch.where(positive, largest.clamp(min=0), smallest.clamp(max=0))


def agrees(
    task_vector: Float[Tensor, " *shape"], unified: Float[Tensor, " *shape"]
) -> Bool[Tensor, " *shape"]:
    """The mask of one task: where its entry is not 0 and has the sign of the unified one."""
    return ((task_vector > 0) & (unified > 0)) | ((task_vector < 0) & (unified < 0))


def decouple(
    unified: Float[Tensor, " *shape"], mask: Bool[Tensor, " *shape"], rescaler: float
) -> Float[Tensor, " *shape"]:
    """What the unified vector holds of one task: λ M ⊙ u."""
    return rescaler * (unified * mask)


@dataclass(frozen=True)
class Magnitudes:
    """What the rescalers are computed from: sums over all tensors of the model, exact.

    Attributes:
        convention: "global_l1" adds up magnitudes; "official" adds up each tensor's mean magnitude.
        own: of each task's vector.
        held: of what the unified vector holds of it before it is rescaled.
        complete: the pass over the model is done.
    """

    convention: Rescaler
    own: tuple[Fraction, ...]
    held: tuple[Fraction, ...]
    complete: bool = False

    @property
    def rescalers(self) -> tuple[float, ...]:
        """λ_i = own_i / held_i; 0 where the unified vector holds nothing of the task."""
        return tuple(
            float(own / held) if held else 0.0 for own, held in zip(self.own, self.held, strict=True)
        )

    @property
    def empty(self) -> tuple[int, ...]:
        """The tasks that have changed weights but of which the unified vector holds nothing."""
        pairs = enumerate(zip(self.own, self.held, strict=True))
        return tuple(task for task, (own, held) in pairs if own and not held)


def begin_magnitudes(count: int, convention: Rescaler = "global_l1", *, complete: bool = False) -> Magnitudes:
    """No tensor seen yet."""
    zeros = (Fraction(0),) * count
    return Magnitudes(convention, zeros, zeros, complete)


def fold_magnitudes(
    state: Magnitudes,
    task_vectors: Sequence[Float[Tensor, " *shape"]] | Float[Tensor, " n *shape"],
    unified: Float[Tensor, " *shape"],
    entries: int,
) -> Magnitudes:
    """Add one tensor, or a piece of one that begins at a multiple of 1024 elements.

    Args:
        state: the sums so far.
        task_vectors: one for each task.
        unified: what `unify` made of them.
        entries: how many the whole tensor has.

    Returns:
        The sums with it.
    """
    weight = 1 if state.convention == "global_l1" else max(entries, 1)
    own, held = list(state.own), list(state.held)
    for task, row in enumerate(task_vectors):
        own[task] += exact_magnitude_sum(row) / weight
        held[task] += exact_magnitude_sum(unified * agrees(row, unified)) / weight
    return replace(state, own=tuple(own), held=tuple(held))


def join_magnitudes(state: Magnitudes, other: Magnitudes) -> Magnitudes:
    """What two have added up in the same pass, each from its beginning."""
    own = tuple(map(add, state.own, other.own))
    return replace(state, own=own, held=tuple(map(add, state.held, other.held)))


def close_magnitudes(state: Magnitudes) -> Magnitudes:
    """End the pass."""
    return replace(state, complete=True)
