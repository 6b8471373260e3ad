"""Continual TIES: trim, elect signs and merge as experts arrive."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from merge_lib.ops.quantile import tensor_threshold
from merge_lib.ops.shares import energy_removed, shares
from merge_lib.ops.signs import disjoint_mean, elect_signs
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import Density, Scale
from merge_lib.working_set import WorkingSet


@dataclass(frozen=True)
class State:
    """What is kept of a tensor: `merged`, or the two sums with their counts; None before the first expert.

    Attributes:
        merged: the merged task vector before scaling.
        positive: the sum of the positive trimmed entries.
        negative: the sum of the negative ones.
        positives: how many were positive, int16.
        negatives: how many were negative, int16.
    """

    merged: Float[Tensor, " *shape"] | None = None
    positive: Float[Tensor, " *shape"] | None = None
    negative: Float[Tensor, " *shape"] | None = None
    positives: Int[Tensor, " *shape"] | None = None
    negatives: Int[Tensor, " *shape"] | None = None


def init(base: Tensor | None) -> State:  # noqa: ARG001 -- the engine subtracts the base
    """No expert yet."""
    return State()


@merge_method(
    name="continual_ties",
    title="Continual TIES",
    paper="https://arxiv.org/abs/2306.01708",
    needs_base=True,
    order_free=False,
    works_on="tensor",
    init=init,
    working_set=WorkingSet(stacks=0.0, tensors=14.5),
)
def continual_ties(
    state: State,
    task_vector: Float[Tensor, " *shape"],
    *,
    density: Density = 0.2,
    scale: Scale = 1.0,
    memory: Literal["merged", "sums"] = "merged",
    trail: Trail = NO_TRAIL,
) -> tuple[Float[Tensor, " *shape"], State]:
    """TIES of the merge so far and the new expert, or, from sums, of all experts so far.

    "merged": m_t = TIES(m_{t−1}, τ_t), m_1 = trim(τ_1); "sums": m_t = TIES(τ_1, …, τ_t). The merged weights are
    θ_0 + λm_t, with λ the scale.

    Scope: per tensor; the state is one tensor with memory "merged", two and two counts of 16 bits with "sums",
        whatever the number of experts.
    Variant: fair. What is merged is always counted from the base, and scaled only in the result: the merge so far
        takes part as one task vector and is not added a second time. It is trimmed anew with the new expert, which
        has half of the say. With "sums" all experts have the same say and their order does not matter: the sums
        and counts of positive and of negative trimmed entries are all that TIES reads of them. Each tensor is
        trimmed by itself; a sum of exactly 0 elects plus.
    Differs from the paper: the paper merges all experts at once and trims over the whole model. The stream of
        OPCM's baselines, θ̄_t = θ̄_{t−1} + λ·TIES(θ̄_{t−1} − θ_0, τ_t), adds the old merge again at every step; this
        does not.
    Reference: Yadav et al., "TIES-Merging", NeurIPS 2023, arXiv:2306.01708; as a stream in Tang et
        al., arXiv:2501.09522.

    Args:
        state: what the experts before left.
        task_vector: [*shape], floating; the new expert − base.
        density: share of entries kept in each task vector, in (0, 1].
        scale: factor on the merged task vector.
        memory: what is kept between experts: the merge alone, or sums that let none be forgotten.
        trail: told what the step removed.

    Returns:
        The merged task vector, [*shape], and the state.
    """
    kept = _trim(task_vector, density)
    trail.note("share kept", lambda: shares((kept != 0)[None]))
    trail.note("energy trimmed", lambda: energy_removed(kept[None], task_vector[None]))
    if memory == "sums":
        state = _added(state, kept)
        return scale * _from_sums(state), state
    rows = kept[None] if state.merged is None else torch.stack([_trim(state.merged, density), kept])
    merged = disjoint_mean(rows, elect_signs(rows))
    trail.note("sign conflicts", lambda: shares((rows.amax(0) * rows.amin(0) < 0)[None]))
    return scale * merged, State(merged=merged)


def _trim(row: Float[Tensor, " *shape"], density: float) -> Float[Tensor, " *shape"]:
    return row * (row.abs() >= tensor_threshold(row, density))


def _added(state: State, kept: Float[Tensor, " *shape"]) -> State:
    """One more expert in the sums."""
    up, down = kept > 0, kept < 0
    positives, negatives = up.to(torch.int16), down.to(torch.int16)
    if state.positive is None:
        return State(None, kept * up, kept * down, positives, negatives)
    return State(
        None,
        state.positive + kept * up,
        state.negative + kept * down,  # type: ignore[operator]
        state.positives + positives,  # type: ignore[operator]
        state.negatives + negatives,  # type: ignore[operator]
    )


def _from_sums(state: State) -> Float[Tensor, " *shape"]:
    """The mean of those entries that have the elected sign; 0 where none has."""
    plus = state.positive + state.negative >= 0  # type: ignore[operator]
    total = torch.where(plus, state.positive, state.negative)  # type: ignore[arg-type]
    count = torch.where(plus, state.positives, state.negatives)  # type: ignore[arg-type]
    return total / count.clamp(min=1)
