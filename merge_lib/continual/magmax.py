"""MagMax: of every weight the largest change."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.ops.shares import energy_removed, shares
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import Scale
from merge_lib.working_set import WorkingSet


@dataclass(frozen=True)
class State:
    """The strongest change so far; None before the first expert."""

    strongest: Tensor | None = None


def init(base: Tensor | None) -> State:  # noqa: ARG001 -- the engine subtracts the base
    """No expert yet."""
    return State()


@merge_method(
    name="magmax",
    title="MagMax",
    paper="https://arxiv.org/abs/2407.06322",
    needs_base=True,
    order_free=False,
    init=init,
    working_set=WorkingSet(stacks=0.0, tensors=4.6),
)
def magmax(
    state: State, task_vector: Float[Tensor, " *shape"], *, scale: Scale = 0.5, trail: Trail = NO_TRAIL
) -> tuple[Float[Tensor, " *shape"], State]:
    """The scaled task vector that has, entry by entry, the largest magnitude seen so far.

    τ*_j = τ_{k,j} with k = argmax_t |τ_{t,j}|; the merged weights are θ_0 + λτ*, with λ the scale.

    Scope: per tensor; the state is one tensor.
    Variant: of equal magnitudes the later one wins, so order matters only there.
    Differs from the paper: nothing in the merge. The paper's experts are trained one from the other;
        experts that all start from the base are its ablation. 0.5 is the scale of the authors' scripts.
    Reference: Marczak et al., "MagMax", ECCV 2024, arXiv:2407.06322, section 4.

    Args:
        state: what the experts before left.
        task_vector: [*shape], floating; the new expert − base.
        scale: factor on the merged task vector.
        trail: told what the new expert took over.

    Returns:
        The merged task vector, [*shape], and the state.
    """
    strongest = state.strongest
    if strongest is None:
        strongest = task_vector.clone()
    else:
        wins = task_vector.abs() >= strongest.abs()
        trail.note("share taken over", lambda: shares(wins[None]))
        trail.note("energy not taken", lambda: energy_removed((task_vector * wins)[None], task_vector[None]))
        strongest = torch.where(wins, task_vector, strongest)
    return scale * strongest, State(strongest)
