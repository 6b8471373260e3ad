"""Uniform weight averaging."""

from jaxtyping import Float
from torch import Tensor

from merge_lib.ops.sums import mean_rows
from merge_lib.registry import merge_method
from merge_lib.working_set import WorkingSet


@merge_method(
    name="average",
    title="Uniform average",
    paper="https://arxiv.org/abs/2203.05482",
    needs_base=False,
    order_free=True,
    working_set=WorkingSet(stacks=0.0, tensors=2.0),
)
def average(experts: Float[Tensor, " n *shape"]) -> Float[Tensor, " *shape"]:
    """The mean of the experts' weights.

    θ* = (1/T) Σ_t θ_t.

    Scope: per tensor.
    Variant: uniform soup; every expert has the same weight.
    Differs from the paper: nothing; the greedy soup is another method.
    Reference: Wortsman et al., "Model soups", ICML 2022, arXiv:2203.05482, section 2.

    Args:
        experts: [n, *shape], floating; one row per expert, in spec order.

    Returns:
        [*shape], dtype of experts.
    """
    return mean_rows(experts)
