"""WiSE-FT: the latest expert, moved back towards the base."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import Fraction
from merge_lib.working_set import WorkingSet


@dataclass(frozen=True)
class State:
    """Nothing: experts before the latest are not looked at."""


def init(base: Tensor | None) -> State:  # noqa: ARG001 -- the engine subtracts the base
    """Nothing to keep."""
    return State()


@merge_method(
    name="wise_ft",
    title="WiSE-FT",
    paper="https://arxiv.org/abs/2109.01903",
    needs_base=True,
    order_free=False,
    init=init,
    working_set=WorkingSet(stacks=0.0, tensors=4.6),
)
def wise_ft(
    state: State, task_vector: Float[Tensor, " *shape"], *, position: Fraction = 0.5, trail: Trail = NO_TRAIL
) -> tuple[Float[Tensor, " *shape"], State]:
    """The point on the straight line from the base to the latest expert.

    θ* = θ_0 + α·τ_t, with α the position.

    Scope: per tensor; there is no state.
    Variant: of several experts only the last counts, so experts are to be trained one from the other (regime
        `sequential`): the last of them has seen all tasks.
    Differs from the paper: nothing; it fine-tunes once, continual studies one task after another.
    Reference: Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022, arXiv:2109.01903, section 3.

    Args:
        state: nothing.
        task_vector: [*shape], floating; the new expert − base.
        position: where on the line, in [0, 1]; 0 is the base, 1 the expert.
        trail: told what the expert weighs.

    Returns:
        The merged task vector, [*shape], and the state.
    """
    trail.note("weight on arrival", lambda: torch.tensor(position))
    return position * task_vector, state
