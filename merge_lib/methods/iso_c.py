"""Iso-C: the sum of the task vectors with a flat spectrum."""

from jaxtyping import Float
from torch import Tensor

from merge_lib.ops.subspace import thin_svd, without_null
from merge_lib.ops.sums import mean_rows, sum_rows
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import CutOff, Scale
from merge_lib.working_set import WorkingSet


@merge_method(
    name="iso_c",
    title="Iso-C",
    paper="https://arxiv.org/abs/2502.04959",
    needs_base=True,
    order_free=True,
    works_on="tensor",
    working_set=WorkingSet(stacks=0.0, tensors=8.0, smaller=2.5),
)
def iso_c(
    task_vectors: Float[Tensor, " n *shape"],
    *,
    scale: Scale = 1.0,
    cut_off: CutOff = 1e-6,
    trail: Trail = NO_TRAIL,
) -> Float[Tensor, " *shape"]:
    """The scaled sum of the task vectors, all of its singular values replaced by their mean.

    Σ_t τ_t = U diag(σ) Vᵀ;  τ* = λ σ̄ U Vᵀ, σ̄ the mean of σ, with λ the scale.

    Scope: per tensor.
    Variant: matrices, embeddings and text projections among them, are merged so; of all other tensors,
        convolutions too, the mean is taken, and scaled.
    Differs from the paper: singular values of at most cut_off times the largest are left at zero, and the mean
        is that of the others, so that the sum of singular values stays the same. The paper's U Vᵀ is arbitrary
        there, as in sums of adapters, whose rank is low. The authors choose the scale on validation data.
    Reference: Marczak et al., "No task left behind: isotropic model merging", ICML 2025, arXiv:2502.04959.

    Args:
        task_vectors: [n, *shape], floating; one row per expert, in spec order.
        scale: factor on the merged task vector; the authors' grid is (0, 3].
        cut_off: singular values of at most this share of the largest count as zero.
        trail: is told what was kept.

    Returns:
        [*shape], dtype of task_vectors.
    """
    if task_vectors.ndim != 3 or task_vectors.numel() == 0:
        return scale * mean_rows(task_vectors)
    factors = without_null(thin_svd(sum_rows(task_vectors)), cut_off)
    trail.note("singular values kept", factors.values.count_nonzero)
    trail.note("largest singular value", factors.values.amax)
    trail.note("mean singular value", lambda: mean_value(factors.values))
    merged = mean_value(factors.values) * factors.left @ factors.right
    return scale * merged.to(task_vectors.dtype)


def mean_value(values: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    """The mean of those that are not zero; 0 where all are."""
    return values.sum() / (values > 0).sum().clamp(min=1)
