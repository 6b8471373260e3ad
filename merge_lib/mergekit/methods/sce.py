"""SCE: select by variance, calculate weights by energy, erase minority signs."""

from math import fsum

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from merge_lib.mergekit.methods.signs import agreement
from merge_lib.mergekit.methods.sums import sum_wide
from merge_lib.ops.sums import sum_rows, tiled_sum

_LEAST_WEIGHT = 1e-6


def sce(
    experts: Float[Tensor, " n *shape"], base: Float[Tensor, " *shape"], *, select_topk: float
) -> Float[Tensor, " *shape"]:
    """The base and the mean of the selected task vectors that agree in sign, weighted by their energy.

    w_i = mean(τ_i²) / Σ_j mean(τ_j²);  θ* = θ_0 + Σ_i w_i m_i τ_i / Σ_i w_i m_i, entry by entry, with m_i = 1
    where τ_i has the sign of Σ_j τ_j.

    Scope: per tensor.
    Variant: mergekit's. Selected are the ⌊select_topk · entries⌋ entries of largest variance over the models,
        counting only entries whose variance is not 0.

    Args:
        experts: [n, *shape], floating.
        base: [*shape].
        select_topk: share of the entries that are selected, in (0, 1].

    Returns:
        [*shape], dtype of experts.
    """
    task_vectors = experts - base
    if select_topk < 1:
        task_vectors = task_vectors * _most_varied(task_vectors, select_topk)
    agree = agreement(task_vectors)
    weights = _energy_shares(task_vectors).reshape(-1, *[1] * base.ndim)
    total, divisor = sum_wide(task_vectors * weights * agree), sum_wide(weights * agree)
    return base + total / divisor.clamp(min=_LEAST_WEIGHT)


def _energy_shares(task_vectors: Float[Tensor, " n *shape"]) -> Float[Tensor, " n"]:
    """Each model's share of the energy; equal ones where there is none."""
    squares = [(row**2).reshape(-1).double().numpy() for row in task_vectors]
    energies = [tiled_sum(row) / max(row.size, 1) for row in squares]
    energy = torch.tensor(energies, dtype=task_vectors.dtype)
    total = torch.tensor(fsum(energy.tolist()), dtype=task_vectors.dtype)
    return energy / total if total > 0 else torch.full_like(energy, 1 / len(energy))


def _most_varied(task_vectors: Float[Tensor, " n *shape"], share: float) -> Bool[Tensor, " *shape"]:
    variance = _variance(task_vectors).reshape(-1)
    count = int(share * int((variance != 0).sum()))
    mask = torch.zeros_like(variance, dtype=torch.bool)
    mask[variance.argsort(descending=True, stable=True)[:count]] = True
    return mask.reshape(task_vectors.shape[1:])


def _variance(task_vectors: Float[Tensor, " n *shape"]) -> Float[Tensor, " *shape"]:
    """Over the models, around their mean, in float32 at least and rounded once."""
    wide = task_vectors.to(torch.promote_types(task_vectors.dtype, torch.float32))
    away = wide - sum_rows(wide) / len(wide)
    return (sum_rows(away * away) / len(wide)).to(task_vectors.dtype)
