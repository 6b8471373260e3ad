"""Sign election over experts."""

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.ops.sums import sum_rows

_TIED = 1e-6  # a sum that is smaller than this share of its magnitudes has no sign


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


def elected_mean(
    values: Float[Tensor, " n *shape"], floor: Float[Tensor, "..."] | float = 0.0
) -> Float[Tensor, " *shape"]:
    """The mean over the experts that agree with the sign of the sum; 0 where the experts cancel.

    Args:
        values: [n, *shape], one row per expert.
        floor: values whose magnitude does not exceed it count as zeros, which neither vote nor are counted.

    Returns:
        [*shape]; 0 where |Σ_t v_t| ≤ 1e-6 · Σ_t |v_t|, as there rounding would decide.
    """
    counted = values * (values.abs() > floor)
    total = sum_rows(counted)
    decided = total.abs() > _TIED * sum_rows(counted.abs())
    return disjoint_mean(counted, total.sign() * decided)
