"""SCE: select by variance, calculate weights by energy, erase minority signs."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from merge_lib.mergekit.methods.signs import agreement

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
    energy = (task_vectors**2).mean(dim=tuple(range(1, task_vectors.ndim)))
    total = energy.sum()
    weights = energy / total if total > 0 else torch.full_like(energy, 1 / len(energy))
    kept = weights.reshape(-1, *[1] * base.ndim) * agree
    return base + (task_vectors * kept).sum(dim=0) / kept.sum(dim=0).clamp(min=_LEAST_WEIGHT)


def _most_varied(task_vectors: Float[Tensor, " n *shape"], share: float) -> Bool[Tensor, " *shape"]:
    variance = task_vectors.var(dim=0, correction=0).reshape(-1)
    count = int(share * int((variance != 0).sum()))
    mask = torch.zeros_like(variance, dtype=torch.bool)
    mask[variance.argsort(descending=True, stable=True)[:count]] = True
    return mask.reshape(task_vectors.shape[1:])
