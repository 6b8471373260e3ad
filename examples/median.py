"""A merge method in one file: the entry-wise median of the experts."""

from jaxtyping import Float
from torch import Tensor

from merge_lib import merge_method
from merge_lib.types import Scale


@merge_method(
    name="median",
    title="Median of the task vectors",
    paper="https://en.wikipedia.org/wiki/Median",
    needs_base=True,
    order_free=True,
)
def median(task_vectors: Float[Tensor, " n *shape"], *, scale: Scale = 1.0) -> Float[Tensor, " *shape"]:
    """The scaled entry-wise median of the task vectors.

    τ*_j = λ · median_t τ_{t,j}; of an even number the lower middle one.

    Args:
        task_vectors: [n, *shape], floating; one row per expert.
        scale: factor on the merged task vector.

    Returns:
        [*shape].
    """
    return scale * task_vectors.median(dim=0).values
