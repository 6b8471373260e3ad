"""PCB-Merging: task vectors compete for every weight."""

from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from merge_lib.layers import Layer
from merge_lib.looks import Look
from merge_lib.ops.balance import (
    Competition,
    Inter,
    begin_competition,
    clamp_magnitudes,
    close_competition,
    compete,
    fold_competition,
    join_competition,
    weigh,
)
from merge_lib.ops.shares import shares
from merge_lib.ops.sums import sum_rows
from merge_lib.registry import ModelStatistics, merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import Density, Scale
from merge_lib.working_set import WorkingSet

Tails = Annotated[float, Field(gt=0, lt=0.5)]


def begin(
    count: int, dtype: torch.dtype, *, density: Density, tails: Tails, inter: Inter, **_: Any
) -> Competition:
    """Nothing seen yet."""
    return begin_competition(count, dtype, density=density, tails=tails, inter=inter)


def fold(state: Competition, task_vectors: Float[Tensor, " n *shape"], _layer: Layer) -> Competition:
    """See one tensor."""
    return fold_competition(state, task_vectors)


@merge_method(
    name="pcb",
    title="PCB-Merging",
    paper="https://arxiv.org/abs/2410.02396",
    needs_base=True,
    order_free=True,
    scope="model",
    statistics=ModelStatistics(
        begin,
        fold,
        close_competition,
        join_competition,
        looks=(Look("threshold"), Look("threshold", unless={"density": 1}, instead=1)),
    ),
    working_set=WorkingSet(stacks=6.5, tensors=1.5),
)
def pcb(
    task_vectors: Float[Tensor, " n *shape"],
    statistics: Competition,
    *,
    trail: Trail = NO_TRAIL,
    density: Density = 0.1,  # noqa: ARG001 -- read by `begin`
    scale: Scale = 1.2,
    inter: Inter = "sum",  # noqa: ARG001 -- read by `begin`
    tails: Tails = 0.0001,  # noqa: ARG001 -- read by `begin`
) -> Float[Tensor, " *shape"]:
    """The mean of the task vectors, entry by entry weighted by how they fare in competition.

    β_i = exp(n m_i²) · tanh(τ_i Σ_k τ_k), with m_i ∈ [0, 1] the place of |τ_i| between its smallest and largest
    over the model;  w_i = (β_i − q_i) / (max β_i − q_i), 0 below q_i, above which the share `density` of β_i lies;
    τ* = λ Σ_i w_i τ_i / Σ_i w_i, 0 where all weights are, with λ the scale.

    Scope: whole model; before the pass that merges, two passes find where magnitudes are clamped and two the
        scores' range (four each for float64).
    Variant: inter "sum" is that of the authors' stand-alone function; "pairs", of their search script, takes
        Σ_k tanh(τ̂_i τ̂_k) of places with signs. Magnitudes are clamped between their quantiles `tails` and
        1 − `tails`, the tensors that are merged, too. Their script clamps a hundredth.
    Differs from the paper: one untuned scale; it searches one for each expert. The density is the function's
        default (the driver takes 0.05). Where the scores kept are all equal, each weighs 1 unless it is 0; where
        a task vector's magnitudes all are, m is 0; the code divides by 0 there. Quantiles are the nearest
        entries; the code's upper one is one entry lower.
    Reference: Du et al., "Parameter competition balancing for model merging", NeurIPS 2024,
        arXiv:2410.02396.

    Args:
        task_vectors: [n, *shape], floating; one row per expert, in spec order.
        statistics: each expert's quantiles and range of scores over the whole model.
        trail: notes the share of entries that each expert takes part in, and of those that nobody does.
        density: share of the entries that each expert competes with, in (0, 1]; the last of them weighs 0.
        scale: factor on the merged task vector.
        inter: how an entry is compared with those of the others: with their sum or one by one.
        tails: share of the magnitudes clamped at either end, in (0, 0.5).

    Returns:
        [*shape], dtype of task_vectors.
    """
    weights = weigh(compete(task_vectors, statistics), statistics)
    total = sum_rows(weights)
    trail.note("share kept", lambda: shares(weights > 0))
    trail.note("share nobody keeps", lambda: shares((total == 0)[None]))
    merged = sum_rows(clamp_magnitudes(task_vectors, statistics).mul_(weights))
    return scale * (merged / torch.where(total > 0, total, 1.0))
