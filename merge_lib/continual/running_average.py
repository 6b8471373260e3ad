"""The mean of all experts so far."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from merge_lib.registry import merge_method
from merge_lib.working_set import WorkingSet


@dataclass(frozen=True)
class State:
    """The mean of `count` experts."""

    mean: Tensor | None = None
    count: int = 0


def init(base: Tensor | None) -> State:  # noqa: ARG001 -- the base has no part in the mean
    """No expert yet."""
    return State()


@merge_method(
    name="running_average",
    title="Running average",
    paper="https://arxiv.org/abs/2412.06712",
    needs_base=False,
    order_free=True,
    init=init,
    working_set=WorkingSet(stacks=0.0, tensors=3.2),
)
def running_average(state: State, expert: Float[Tensor, " *shape"]) -> tuple[Float[Tensor, " *shape"], State]:
    """The mean of all experts up to this one, from the mean of those before it.

    θ̄_t = ((t − 1)·θ̄_{t−1} + θ_t) / t.

    Scope: per tensor; the state is one tensor and a count.
    Variant: equal weights; the same as the uniform average up to rounding.
    Differs from the paper: nothing.
    Reference: Dziadzio et al., "How to merge your multimodal models over time?", CVPR 2025, arXiv:2412.06712.

    Args:
        state: what the experts before left.
        expert: [*shape], floating; the new expert.

    Returns:
        The mean, [*shape], and the state that holds it.
    """
    count = state.count + 1
    mean = expert.clone() if state.mean is None else (state.count * state.mean + expert) / count
    return mean, State(mean, count)
