"""Exponential moving average of experts."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.methods.linear import interpolate
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import Fraction
from merge_lib.working_set import WorkingSet


@dataclass(frozen=True)
class State:
    """The average so far; None before the first expert."""

    average: Tensor | None = None


def init(base: Tensor | None) -> State:  # noqa: ARG001 -- the average starts at the first expert
    """No expert yet."""
    return State()


@merge_method(
    name="ema",
    title="Exponential moving average",
    paper="https://arxiv.org/abs/2412.06712",
    needs_base=False,
    order_free=False,
    init=init,
    working_set=WorkingSet(stacks=0.0, tensors=4.2),
)
def ema(
    state: State, expert: Float[Tensor, " *shape"], *, weight: Fraction = 0.5, trail: Trail = NO_TRAIL
) -> tuple[Float[Tensor, " *shape"], State]:
    """The moving average after this expert.

    θ̄_t = (1 − w)·θ̄_{t−1} + w·θ_t, θ̄_1 = θ_1, with w the weight.

    Scope: per tensor; the state is one tensor.
    Variant: starts at the first expert, not at the base. A weight of 0 keeps the first expert, 1 the last
        one, bit for bit.
    Differs from the paper: nothing; it sweeps the weight, and 0.5 is our choice.
    Reference: Dziadzio et al., "How to merge your multimodal models over time?", CVPR 2025, arXiv:2412.06712.

    Args:
        state: what the experts before left.
        expert: [*shape], floating; the new expert.
        weight: of the new expert, in [0, 1].
        trail: told what the new expert weighs now; later ones take from it.

    Returns:
        The average, [*shape], and the state that holds it.
    """
    average = expert if state.average is None else interpolate(state.average, expert, position=weight)
    trail.note("weight on arrival", lambda: torch.tensor(1.0 if state.average is None else weight))
    average = average.clone()
    return average, State(average)
