"""Setting entries of task vectors to zero."""

from jaxtyping import Float
from torch import Tensor


def keep_large(
    task_vectors: Float[Tensor, " n *shape"], thresholds: Float[Tensor, " n"]
) -> Float[Tensor, " n *shape"]:
    """Entries whose magnitude reaches their expert's threshold; the others are zero."""
    broad = thresholds.reshape(-1, *[1] * (task_vectors.ndim - 1))
    return task_vectors * (task_vectors.abs() >= broad)
