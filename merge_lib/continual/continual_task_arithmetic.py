"""Continual task arithmetic: the sum of all task vectors so far."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from merge_lib.registry import merge_method
from merge_lib.types import Scale
from merge_lib.working_set import WorkingSet


@dataclass(frozen=True)
class State:
    """The sum of the task vectors so far; None before the first expert."""

    total: Tensor | None = None


def init(base: Tensor | None) -> State:  # noqa: ARG001 -- the engine subtracts the base
    """No expert yet."""
    return State()


@merge_method(
    name="continual_task_arithmetic",
    title="Continual task arithmetic",
    paper="https://arxiv.org/abs/2212.04089",
    needs_base=True,
    order_free=True,
    init=init,
    working_set=WorkingSet(stacks=0.0, tensors=4.2),
)
def continual_task_arithmetic(
    state: State, task_vector: Float[Tensor, " *shape"], *, scale: Scale = 0.3
) -> tuple[Float[Tensor, " *shape"], State]:
    """The scaled sum of the task vectors up to this one.

    θ̄_t = θ̄_{t−1} + λτ_t, θ̄_0 = θ_0, with λ the scale; so θ̄_t = θ_0 + λ Σ_{i≤t} τ_i.

    Scope: per tensor; the state is one tensor.
    Variant: one scale for all experts, which are weighed alike. The state is the sum before scaling, so the
        result is that of task arithmetic on all experts, to the bit.
    Differs from the paper: the paper adds all task vectors at once and picks the scale by validation for each
        number of tasks; a stream cannot go back, and 0.3 is kept throughout, as in OPCM's baselines.
    Reference: Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023, arXiv:2212.04089; as a stream in
        Tang et al., arXiv:2501.09522.

    Args:
        state: what the experts before left.
        task_vector: [*shape], floating; the new expert − base.
        scale: factor on the merged task vector.

    Returns:
        The merged task vector, [*shape], and the state.
    """
    total = task_vector.clone() if state.total is None else state.total + task_vector
    return scale * total, State(total)
