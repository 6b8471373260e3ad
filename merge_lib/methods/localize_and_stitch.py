"""Localize-and-Stitch without data: each expert's largest changes, stitched into the base."""

from jaxtyping import Bool, Float
from torch import Tensor

from merge_lib.ops.quantile import Thresholds
from merge_lib.ops.shares import shares
from merge_lib.ops.sparsify import keep_large
from merge_lib.ops.sums import sum_rows
from merge_lib.ops.trimming import TRIMMING
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import Density
from merge_lib.working_set import WorkingSet


@merge_method(
    name="localize_and_stitch",
    title="Localize-and-Stitch, without data",
    paper="https://arxiv.org/abs/2408.13656",
    needs_base=True,
    order_free=True,
    scope="model",
    statistics=TRIMMING,
    working_set=WorkingSet(stacks=3.6, tensors=3.0),
)
def localize_and_stitch(
    task_vectors: Float[Tensor, " n *shape"],
    statistics: Thresholds,
    *,
    trail: Trail = NO_TRAIL,
    density: Density = 0.1,  # noqa: ARG001 -- the thresholds went by it
) -> Float[Tensor, " *shape"]:
    """The mean, entry by entry, of those task vectors that have it among their largest.

    M_t marks the largest share `density` of |τ_t|;  τ* = Σ_t M_t ⊙ τ_t / Σ_t M_t, 0 where no mask is.

    Scope: whole model; two passes find the thresholds (four for float64, none with density 1).
    Variant: the paper's without data, where the mask is the largest tenth of the whole flattened model.
    Differs from the paper: an entry that an expert did not change is in none of its masks, so a frozen expert
        does not thin out the others. Entries equal to the smallest one kept are kept, too.
    Reference: He et al., "Localize-and-Stitch: efficient model merging via sparse task arithmetic", TMLR,
        arXiv:2408.13656.

    Args:
        task_vectors: [n, *shape], floating; one row per expert, in spec order.
        statistics: each expert's threshold over the whole model.
        trail: notes each mask's density and the share of masked entries that several masks have.
        density: share of entries in each mask, in (0, 1].

    Returns:
        [*shape], dtype of task_vectors.
    """
    kept = keep_large(task_vectors, statistics.values)
    masks = kept != 0
    trail.note("share kept", lambda: shares(masks))
    trail.note(
        "share overlapping",
        lambda: (masks.sum(dim=0) > 1).sum().double() / masks.any(dim=0).sum().clamp(min=1),
    )
    return stitch(task_vectors, masks)


def stitch(
    task_vectors: Float[Tensor, " n *shape"], masks: Bool[Tensor, " n *shape"]
) -> Float[Tensor, " *shape"]:
    """Entry by entry the mean over the task vectors whose mask has it; 0 where none has."""
    return sum_rows(task_vectors * masks) / masks.sum(dim=0).clamp(min=1)
