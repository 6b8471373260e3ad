"""Model Breadcrumbs: drop outliers and small entries."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from merge_lib.ops.quantile import kept_count
from merge_lib.ops.shares import energy_removed, shares
from merge_lib.ops.sparsify import as_rows, magnitude_ranks
from merge_lib.ops.sums import sum_rows
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import Density, ProperFraction, Scale
from merge_lib.working_set import WorkingSet

Trim = Literal["row", "tensor"]


@merge_method(
    name="breadcrumbs",
    title="Model Breadcrumbs",
    paper="https://arxiv.org/abs/2312.06795",
    needs_base=True,
    order_free=True,
    works_on="row",
    whole_where={"trim": "tensor"},
    working_set=WorkingSet(stacks=2.5, tensors=1.0),
)
def breadcrumbs(
    task_vectors: Float[Tensor, " n *shape"],
    *,
    trail: Trail = NO_TRAIL,
    density: Density = 0.15,
    outliers: ProperFraction = 0.006,
    scale: Scale = 0.2,
    trim: Trim = "row",
) -> Float[Tensor, " *shape"]:
    """The scaled sum of task vectors without their largest and their small entries.

    m_t drops the ⌊γ · len⌋ largest magnitudes and, of the rest, keeps the largest β · len;  τ* = α Σ_t m_t ⊙ τ_t.
    The outliers are γ, the density β, α the scale.

    Scope: per row: what makes one output, the first axis against all others; a vector is one row. Per tensor
        with trim "tensor".
    Variant: rows, as in the authors' code; `trim="tensor"` is the paper's text. mergekit's breadcrumbs, by tensor,
        may weigh and normalise.
    Differs from the paper: the density counts what is kept, the paper's β what is dropped. The number kept is
        rounded to the nearest and at least one; so many outliers are dropped that one entry is left. A kernel's
        row is all that makes one output channel; the authors' code takes the last axis alone. Of equal magnitudes
        the first counts as smaller.
    Reference: Davari and Belilovsky, "Model Breadcrumbs", ECCV 2024, arXiv:2312.06795.

    Args:
        task_vectors: [n, *shape], floating; one row per expert, in spec order.
        trail: notes the share of entries kept, and the share of the squared norm that outliers and small
            entries had.
        density: share of entries kept in each task vector, in (0, 1]; at most what outliers leave.
        outliers: share of the largest entries that are dropped, in [0, 1).
        scale: factor on the sum.
        trim: over what entries are ordered: each row or the whole tensor.

    Returns:
        [*shape], dtype of task_vectors.
    """
    masks = torch.stack([_crumbs(row, density, outliers, trim) for row in task_vectors])
    kept = task_vectors * masks
    trail.note("share kept", lambda: shares(masks))
    trail.note("energy removed", lambda: energy_removed(kept, task_vectors))
    return scale * sum_rows(kept)


def _crumbs(
    task_vector: Float[Tensor, " *shape"], density: float, outliers: float, trim: Trim
) -> Bool[Tensor, " *shape"]:
    """What is neither among the largest nor among the small entries."""
    rows = as_rows(task_vector) if trim == "row" else task_vector.reshape(1, task_vector.numel())
    length = rows.shape[1]
    if length == 0:
        return torch.ones_like(task_vector, dtype=torch.bool)
    end = length - min(int(outliers * length), length - 1)
    ranks = magnitude_ranks(rows)
    return ((ranks < end) & (ranks >= end - kept_count(length, density))).reshape(task_vector.shape)
