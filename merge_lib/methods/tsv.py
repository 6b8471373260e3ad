"""TSV-Merge: the strongest singular triplets of every task, made orthogonal to one another."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.ops.sketch import sketched_svd
from merge_lib.ops.subspace import (
    Factors,
    goes_by_gram,
    thin_svd,
    whitened_product,
    without_null,
)
from merge_lib.ops.sums import mean_rows
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import CutOff, Scale
from merge_lib.working_set import WorkingSet


@merge_method(
    name="tsv",
    title="TSV-Merge",
    paper="https://arxiv.org/abs/2412.00081",
    needs_base=True,
    order_free=True,
    works_on="tensor",
    working_set=WorkingSet(stacks=0.0, tensors=12.0, smaller=4.2),
)
def tsv(
    task_vectors: Float[Tensor, " n *shape"],
    *,
    scale: Scale = 1.0,
    svd: Literal["exact", "sketch"] = "exact",
    cut_off: CutOff = 1e-6,
    trail: Trail = NO_TRAIL,
) -> Float[Tensor, " *shape"]:
    """The scaled sum of the tasks' strongest singular triplets after their vectors were whitened together.

    τ_t ≈ U_t Σ_t V_tᵀ with k = max(1, ⌊r/T⌋) triplets each, r = min(out, in);  Û = [U_1 … U_T] = P_U D_U Q_Uᵀ,
    U⊥ = P_U Q_Uᵀ, V⊥ likewise;  τ* = λ U⊥ diag(Σ_1, …, Σ_T) V⊥ᵀ, with λ the scale.

    Scope: per tensor.
    Variant: matrices, embeddings and text projections among them, are merged so; of all other tensors,
        convolutions too, the mean is taken, and scaled. `svd="sketch"`, ours, takes triplets that hold nearly
        as much energy; the whitening is exact.
    Differs from the paper: more experts than r keep one triplet each, where the authors' code keeps none and
        gives the base. Triplets whose value is at most cut_off times the task's largest are left out, and so
        are directions that Û or V̂ lack: there P_U and Q_U are arbitrary, and the code adds what chance puts
        there. Identical experts so give their own best approximation of rank k. The code takes the mean of
        `text_projection`, which fine-tuning of the vision tower leaves as it is.
    Reference: Gargiulo et al., "Task singular vectors", CVPR 2025, arXiv:2412.00081.

    Args:
        task_vectors: [n, *shape], floating; one row per expert, in spec order.
        scale: factor on the merged task vector.
        svd: whether the triplets are the first ones, or nearly so and several times faster.
        cut_off: singular values of at most this share of the largest count as zero.
        trail: is told what was kept.

    Returns:
        [*shape], dtype of task_vectors.
    """
    if task_vectors.ndim != 3 or task_vectors.numel() == 0:
        return scale * mean_rows(task_vectors)
    rank = max(1, min(task_vectors.shape[1:]) // len(task_vectors))
    decompose = thin_svd if svd == "exact" else sketched_svd
    kept = [without_null(decompose(row, rank), cut_off) for row in task_vectors]
    trail.note("energy kept", lambda: energy_shares(kept, task_vectors))
    trail.note("triplets kept", lambda: torch.stack([one.values.count_nonzero() for one in kept]))
    merged = merge_triplets(kept, cut_off, by_gram=goes_by_gram(task_vectors.dtype))
    return scale * merged.to(task_vectors.dtype)


def merge_triplets(kept: Sequence[Factors], cut_off: float, *, by_gram: bool) -> Float[Tensor, "m n"]:
    """All triplets side by side, whitened and multiplied out."""
    left = torch.cat([one.left for one in kept], dim=1)  # [m, T·k]
    right = torch.cat([one.right for one in kept])  # [T·k, n]
    values = torch.cat([one.values for one in kept])
    return whitened_product(left, values, right, cut_off, by_gram=by_gram)


def energy_shares(kept: Sequence[Factors], task_vectors: Float[Tensor, "t m n"]) -> Float[Tensor, " t"]:
    """The share of each task vector's squared norm in its triplets; 1 where there is none to lose."""
    total = torch.stack([row.double().square().sum() for row in task_vectors])
    share = torch.stack([one.values.square().sum() for one in kept]) / total
    return torch.where(total > 0, share, 1.0)
