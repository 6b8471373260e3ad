"""Sign election over experts."""

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.ops.sums import sum_rows


def elect_signs(task_vectors: Float[Tensor, " n *shape"]) -> Float[Tensor, " *shape"]:
    """+1 where the unweighted sum over experts is at least 0, else −1."""
    total = sum_rows(task_vectors)
    return torch.where(total >= 0, 1.0, -1.0).to(total.dtype)


def disjoint_sum(
    task_vectors: Float[Tensor, " n *shape"], signs: Float[Tensor, " *shape"]
) -> Float[Tensor, " *shape"]:
    """The sum over those experts whose entry has the elected sign."""
    return sum_rows(task_vectors * (task_vectors * signs > 0))


def disjoint_mean(
    task_vectors: Float[Tensor, " n *shape"], signs: Float[Tensor, " *shape"]
) -> Float[Tensor, " *shape"]:
    """The mean over those experts whose entry is not zero and has the elected sign; 0 where none has."""
    agree = task_vectors * signs > 0
    total = sum_rows(task_vectors * agree)
    return total / agree.sum(dim=0).clamp(min=1)
