"""Weighted means and plain copies."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.ops.sums import sum_rows


def linear(
    experts: Float[Tensor, " n *shape"], *, weight: Sequence[float], normalize: bool
) -> Float[Tensor, " *shape"]:
    """The weighted sum of the models, divided by the sum of the weights where `normalize` is set.

    θ* = Σ_i w_i θ_i / Σ_i w_i, or Σ_i w_i θ_i.

    Scope: per tensor.
    Variant: mergekit's; in float32 at least, model after model, each weight, product and sum rounded once.

    Args:
        experts: [n, *shape], floating; one row per model.
        weight: one factor per model; their sum is not 0 where `normalize` is set.
        normalize: divide by the sum of the weights.

    Returns:
        [*shape], dtype of experts.
    """
    wide = experts.to(torch.promote_types(experts.dtype, torch.float32))
    total = wide[0] * weight[0]
    for row, factor in zip(wide[1:], weight[1:], strict=True):
        total = total + row * factor
    if normalize:
        total = total / sum_rows(torch.tensor(weight, dtype=wide.dtype))
    return total.to(experts.dtype)


def passthrough(experts: Float[Tensor, " 1 *shape"], *, scale: Sequence[float]) -> Float[Tensor, " *shape"]:
    """The one model's tensor, times its scale.

    Scope: per tensor.
    Variant: mergekit's.

    Args:
        experts: [1, *shape].
        scale: one factor.

    Returns:
        [*shape], dtype of experts.
    """
    return experts[0] * scale[0]
