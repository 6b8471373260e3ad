"""Task arithmetic: adding task vectors."""

from jaxtyping import Float
from torch import Tensor

from merge_lib.ops.sums import sum_rows
from merge_lib.registry import merge_method
from merge_lib.types import Scale
from merge_lib.working_set import WorkingSet


@merge_method(
    name="task_arithmetic",
    title="Task arithmetic",
    paper="https://arxiv.org/abs/2212.04089",
    needs_base=True,
    order_free=True,
    working_set=WorkingSet(stacks=0.0, tensors=2.2),
)
def task_arithmetic(
    task_vectors: Float[Tensor, " n *shape"], *, scale: Scale = 0.3
) -> Float[Tensor, " *shape"]:
    """The scaled sum of the task vectors.

    τ* = λ Σ_t τ_t, with λ the scale; the merged weights are θ_0 + τ*.

    Scope: per tensor.
    Variant: the sum, not the mean; a scale of 1/T makes it the uniform average.
    Differs from the paper: nothing. The paper tunes λ on validation data; 0.3 is its choice for eight tasks.
    Reference: Ilharco et al., "Editing models with task arithmetic", ICLR 2023, arXiv:2212.04089, section 2.

    Args:
        task_vectors: [n, *shape], floating; one row per expert, in spec order.
        scale: factor on the sum.

    Returns:
        [*shape], dtype of task_vectors.
    """
    return scale * sum_rows(task_vectors)
