"""Methods that move the base towards other models, entry by entry or as a whole."""

from itertools import combinations
from math import fsum, sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.ops.sums import inner_product, sum_rows

_FLOOR = 1e-8


def model_stock(
    experts: Float[Tensor, " n *shape"], base: Float[Tensor, " *shape"], *, filter_wise: bool
) -> Float[Tensor, " *shape"]:
    """Between the base and the mean of the models, by the angle between their task vectors.

    t = n·c / (1 + (n−1)·c), c the mean cosine over pairs of task vectors;  θ* = t · mean_i θ_i + (1−t) · θ_0.

    Scope: per tensor, or per row with `filter_wise`.
    Variant: mergekit's; t is not kept within [0, 1].
    Reference: Jang et al., "Model Stock", ECCV 2024, arXiv:2403.19522, equation 9.

    Args:
        experts: [n, *shape], floating; n is at least 2.
        base: [*shape].
        filter_wise: an angle for each row of a matrix.

    Returns:
        [*shape], dtype of experts.
    """
    task_vectors = experts - base
    cosine = _cosines_of_rows(task_vectors) if filter_wise else _cosine(task_vectors)
    t = len(experts) * cosine / (1 + (len(experts) - 1) * cosine)
    t = t if filter_wise else torch.tensor(t, dtype=experts.dtype)
    mean = sum_rows(experts) / len(experts)
    return (t * mean + (1 - t) * base).reshape(base.shape)


def _cosine(task_vectors: Float[Tensor, " n *shape"]) -> float:
    """The mean cosine over pairs of whole tensors; 0 for a pair of which one is zero."""
    rows = list(task_vectors)
    lengths = [sqrt(inner_product(row, row)) for row in rows]
    cosines = []
    for i, j in combinations(range(len(rows)), 2):
        norms = lengths[i] * lengths[j]
        product = inner_product(rows[i], rows[j])
        cosines.append(min(1.0, max(-1.0, product / norms)) if norms > 0 else 0.0)
    return fsum(cosines) / len(cosines)


def _cosines_of_rows(task_vectors: Float[Tensor, " n *shape"]) -> Float[Tensor, " *rows 1"]:
    """The mean cosine over pairs, row by row."""
    lengths = task_vectors.norm(dim=-1)
    cosines = torch.stack(
        [
            ((task_vectors[i] * task_vectors[j]).sum(dim=-1) / (lengths[i] * lengths[j])).clamp(-1, 1)
            for i, j in combinations(range(len(task_vectors)), 2)
        ]
    )
    return torch.nan_to_num(cosines).mean(dim=0).unsqueeze(-1)


def nearswap(
    experts: Float[Tensor, " 1 *shape"], base: Float[Tensor, " *shape"], *, t: float
) -> Float[Tensor, " *shape"]:
    """The base, moved towards the other model by at most t in every entry where they are further apart.

    θ* = (1−λ) θ_0 + λ θ_1, λ = min(t / |θ_0 − θ_1|, 1), which is 1 where the two are equal.

    Scope: per entry.
    Variant: mergekit's.

    Args:
        experts: [1, *shape], floating.
        base: [*shape].
        t: how far an entry may move.

    Returns:
        [*shape], dtype of experts.
    """
    share = (t / (base - experts[0]).abs()).nan_to_num(nan=1.0, posinf=1.0, neginf=1.0).clamp(0, 1)
    return (1 - share) * base + share * experts[0]


def arcee_fusion(
    experts: Float[Tensor, " 1 *shape"], base: Float[Tensor, " *shape"]
) -> Float[Tensor, " *shape"]:
    """The base, with those entries of the other model that matter more than the rest.

    Importance: |θ_1 − θ_0| times the Kullback-Leibler divergence of its row, softmax(θ_1) from softmax(θ_0).
    An entry is taken over where its importance exceeds median + 1.5 · interquartile range; a quantile that falls
    between two entries is the lower one.

    Scope: per tensor.
    Variant: mergekit's.

    Args:
        experts: [1, *shape], floating.
        base: [*shape].

    Returns:
        [*shape], dtype of experts.
    """
    difference = experts[0] - base
    p = torch.softmax(experts[0], dim=-1) + _FLOOR
    q = torch.softmax(base, dim=-1) + _FLOOR
    divergence = (p * torch.log(p / q)).sum(dim=-1, keepdim=True)
    importance = difference.abs() * divergence
    first, median, third = (_quantile(importance, share) for share in (0.25, 0.5, 0.75))
    return base + difference * (importance > median + 1.5 * (third - first))


def _quantile(values: Float[Tensor, " *shape"], share: float) -> Float[Tensor, ""]:
    """The lower of the two neighbours where the share falls between them."""
    flat = values.reshape(-1)
    return flat.kthvalue(int(share * (flat.numel() - 1)) + 1).values
