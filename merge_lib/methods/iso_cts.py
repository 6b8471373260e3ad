"""Iso-CTS: a flat spectrum on directions that the tasks share and on directions of their own."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.methods.iso_c import mean_value
from merge_lib.ops.subspace import Factors, goes_by_gram, thin_svd, whitened_product
from merge_lib.ops.sums import mean_rows, sum_rows
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import CutOff, Fraction, Scale
from merge_lib.working_set import WorkingSet


@merge_method(
    name="iso_cts",
    title="Iso-CTS",
    paper="https://arxiv.org/abs/2502.04959",
    needs_base=True,
    order_free=True,
    works_on="tensor",
    working_set=WorkingSet(stacks=1.6, tensors=10.0, smaller=5.2),
)
def iso_cts(
    task_vectors: Float[Tensor, " n *shape"],
    *,
    common: Fraction = 0.8,
    scale: Scale = 1.0,
    cut_off: CutOff = 1e-6,
    trail: Trail = NO_TRAIL,
) -> Float[Tensor, " *shape"]:
    """The scaled product of shared and task-specific directions, all with the same singular value.

    Σ_t τ_t = U diag(σ) Vᵀ, of which the first k triplets are common;  τ̃_t = τ_t − U_k U_kᵀ τ_t, of which the
    first s triplets are the task's own;  all T·s + k = r of them side by side, whitened as in TSV-Merge to U⊥
    and V⊥;  τ* = λ σ̄ U⊥ V⊥ᵀ, σ̄ the mean of the r singular values, with λ the scale.

    Scope: per tensor.
    Variant: r = min(out, in), s = (1 − common)·r/T rounded to the nearest, halves to even, and k = r − T·s, as in
        the authors' code. Matrices, embeddings and text projections among them, are merged so; of all other
        tensors, convolutions too, the mean is taken, and scaled.
    Differs from the paper: s is at most ⌊r/T⌋; rounding may otherwise ask for more than r directions. So many
        experts that s is 0 give Iso-C. Triplets whose value is at most cut_off times the layer's largest are left
        out of the product and of the mean: their directions are arbitrary. The authors choose the scale on
        validation data.
    Reference: Marczak et al., "No task left behind: isotropic model merging", ICML 2025, arXiv:2502.04959.

    Args:
        task_vectors: [n, *shape], floating; one row per expert, in spec order.
        common: share of the directions that are common, in [0, 1]; 1 is Iso-C.
        scale: factor on the merged task vector; the authors' grid is (0, 3].
        cut_off: singular values of at most this share of the largest count as zero.
        trail: is told what was kept.

    Returns:
        [*shape], dtype of task_vectors.
    """
    if task_vectors.ndim != 3 or task_vectors.numel() == 0:
        return scale * mean_rows(task_vectors)
    by_gram = goes_by_gram(task_vectors.dtype)
    own = own_rank(min(task_vectors.shape[1:]), len(task_vectors), common)
    shared = thin_svd(sum_rows(task_vectors))
    shared = shared.first(len(shared.values) - own * len(task_vectors))
    parts = [own_triplets(row, shared.left, own, by_gram=by_gram) for row in task_vectors if own]
    level = cut_off * torch.cat([part.values for part in (*parts, shared)]).amax()
    parts = [part.above(level) for part in (*parts, shared)]
    trail.note("energy in common directions", lambda: common_energy(task_vectors, shared.left))
    trail.note("directions kept", lambda: torch.stack([part.values.count_nonzero() for part in parts]).sum())
    return scale * flat_product(parts, cut_off, by_gram=by_gram).to(task_vectors.dtype)


def own_rank(rank: int, tasks: int, common: float) -> int:
    """How many directions each task has for itself."""
    shared = int(rank * common)
    return min(round((rank - shared) / tasks), rank // tasks)


def own_triplets(
    task_vector: Float[Tensor, "m n"], shared: Float[Tensor, "m k"], own: int, *, by_gram: bool
) -> Factors:
    """The first triplets of what a task vector has outside of the common directions."""
    wide = task_vector.double()
    return thin_svd(wide - shared @ (shared.mT @ wide), own, by_gram=by_gram)


def flat_product(parts: Sequence[Factors], cut_off: float, *, by_gram: bool) -> Float[Tensor, "m n"]:
    """All directions side by side, whitened, with the mean of their singular values."""
    values = torch.cat([part.values for part in parts])
    left = torch.cat([part.left for part in parts], dim=1)
    right = torch.cat([part.right for part in parts])
    flat = mean_value(values).expand(len(values))
    return whitened_product(left, flat, right, cut_off, by_gram=by_gram)


def common_energy(task_vectors: Float[Tensor, "t m n"], shared: Float[Tensor, "m k"]) -> Float[Tensor, " t"]:
    """The share of each task vector's squared norm that lies in the common directions; 0 for a zero one."""
    total = torch.stack([row.double().square().sum() for row in task_vectors])
    inside = torch.stack([(shared.mT @ row.double()).square().sum() for row in task_vectors])
    return torch.where(total > 0, inside / total, 0.0)
