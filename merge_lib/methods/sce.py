"""SCE: select by variance, calculate weights by energy, erase minority signs."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from merge_lib.ops.quantile import tensor_threshold
from merge_lib.ops.shares import energy_removed, shares
from merge_lib.ops.signs import elect_signs
from merge_lib.ops.sums import inner_product, mean_rows, per_row, sum_rows
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import Density
from merge_lib.working_set import WorkingSet


@merge_method(
    name="sce",
    title="SCE",
    paper="https://arxiv.org/abs/2408.07990",
    needs_base=True,
    order_free=True,
    works_on="tensor",
    working_set=WorkingSet(stacks=3.4, tensors=1.5),
)
def sce(
    task_vectors: Float[Tensor, " n *shape"], *, trail: Trail = NO_TRAIL, density: Density = 0.1
) -> Float[Tensor, " *shape"]:
    """The mean, weighted by energy, of those selected entries that have the sign of their sum.

    S marks the share `density` of entries with the largest variance over the experts;  τ̂_i = S ⊙ τ_i;
    η_i = ‖τ̂_i‖² / Σ_k ‖τ̂_k‖²;  a_i = [τ̂_i has the sign of Σ_k τ̂_k];  τ* = Σ_i η_i a_i τ̂_i / Σ_i η_i a_i.

    Scope: per tensor.
    Variant: weights are divided by the sum of those that agree, entry by entry, as in mergekit's sce; that one
        selects only entries whose variance is not 0, and divides by at least 1e-6.
    Differs from the paper: all entries whose variance equals the smallest one selected are selected, so that one
        expert, or several that are the same, come back. Where entries cancel, plus is elected.
    Reference: Wan et al., "FuseChat", 2024, arXiv:2408.07990.

    Args:
        task_vectors: [n, *shape], floating; one row per expert, in spec order.
        trail: notes the share selected, each expert's weight, the share of its selected entries that are erased
            for their sign, and of its squared norm that is gone.
        density: share of entries selected, in (0, 1].

    Returns:
        [*shape], dtype of task_vectors.
    """
    selected = _most_varied(task_vectors, density)
    kept = task_vectors * selected
    agree = kept * elect_signs(kept) > 0
    weights = _energy_shares(kept)
    broad = per_row(weights, kept) * agree
    total, divisor = sum_rows(kept * broad), sum_rows(broad)
    trail.note("share kept", lambda: shares(selected[None]))
    trail.note("weight", lambda: weights)
    trail.note("share of the other sign", lambda: shares((kept != 0) & ~agree))
    trail.note("energy removed", lambda: energy_removed(kept * agree, task_vectors))
    return total / torch.where(divisor > 0, divisor, 1.0)


def _most_varied(task_vectors: Float[Tensor, " n *shape"], density: float) -> Bool[Tensor, " *shape"]:
    beside = task_vectors - task_vectors[0]  # exactly 0 where all are the same
    away = beside - mean_rows(beside)
    variance = mean_rows(away * away)
    return variance >= tensor_threshold(variance, density)


def _energy_shares(task_vectors: Float[Tensor, " n *shape"]) -> Float[Tensor, " n"]:
    """Each expert's share of the squared norms; equal ones where all are 0."""
    energies = torch.tensor([inner_product(row, row) for row in task_vectors], dtype=torch.float64)
    total = energies.sum()
    found = energies / total if total > 0 else torch.full_like(energies, 1 / len(energies))
    return found.to(task_vectors.dtype)
