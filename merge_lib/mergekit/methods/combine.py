"""The core of the family that mergekit calls generalized task arithmetic.

θ* = θ_0 + λ · Σ_i w_i m_i τ̂_i / Σ_i w_i m_i, with τ̂_i the thinned task vectors and m_i = 1, or, where signs
are elected, 1 for the models that agree with the sign of Σ_i w_i τ̂_i, entry by entry. Without `normalize`
nothing is divided.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.mergekit.methods.signs import agreement
from merge_lib.mergekit.methods.sparsify import restore_l1
from merge_lib.mergekit.methods.sums import sum_wide

_NO_WEIGHT = 1e-8


def thin(
    experts: Float[Tensor, " n *shape"],
    base: Float[Tensor, " *shape"],
    drop: Callable[[Tensor, int], Tensor],
    *,
    rescale: bool,
    by_rows: bool = False,
) -> Float[Tensor, " n *shape"]:
    """The task vectors after `drop(task_vector, place)`; with `rescale` each has its L1 norm of before."""
    task_vectors = experts - base
    rows = [drop(row, place) for place, row in enumerate(task_vectors)]
    if rescale:
        rows = [restore_l1(row, full, by_rows=by_rows) for row, full in zip(rows, task_vectors, strict=True)]
    return torch.stack(rows)


def add(
    base: Float[Tensor, " *shape"],
    task_vectors: Float[Tensor, " n *shape"],
    *,
    weight: Sequence[float],
    normalize: bool,
    scale: float,
    elect: bool,
) -> Float[Tensor, " *shape"]:
    """The base and the weighted sum of task vectors, of those that agree in sign where `elect` is set.

    Scope: per tensor.
    Variant: mergekit's. The sign is elected on the weighted task vectors and an entry is divided by the sum
        of the weights that agree; a sum of weights nearer to 0 than 1e-8 divides by 1.

    Args:
        base: [*shape].
        task_vectors: [n, *shape], already thinned.
        weight: one factor per task vector.
        normalize: divide by the sum of the weights.
        scale: factor on the sum; mergekit's `lambda`.
        elect: leave out entries whose sign is not that of the sum.

    Returns:
        [*shape], dtype of base.
    """
    weights = torch.tensor(weight, dtype=task_vectors.dtype).reshape(-1, *[1] * base.ndim)
    weighted = task_vectors * weights
    if elect:
        agree = agreement(weighted)
        total, divisor = sum_wide(weighted * agree), sum_wide(weights * agree)
    else:
        total, divisor = sum_wide(weighted), sum_wide(weights)
    if normalize:
        total = total / torch.where(divisor.float().abs() < _NO_WEIGHT, 1.0, divisor).to(total.dtype)
    return base + (total if scale == 1 else total * scale)
