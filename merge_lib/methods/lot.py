"""LOT Merging: layer by layer the task vector that moves the experts' features least."""

from collections.abc import Sequence
from functools import partial
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.layers import Layer
from merge_lib.learned import Observed
from merge_lib.ops.features import Unit, check_values, weight_units
from merge_lib.ops.least_squares import Fit, smallest_fit
from merge_lib.ops.shares import ratio
from merge_lib.ops.sums import mean_rows, sum_rows
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import CutOff, Scale
from merge_lib.working_set import WorkingSet


@merge_method(
    name="lot",
    title="LOT Merging",
    paper="https://arxiv.org/abs/2505.23859",
    needs_base=True,
    order_free=True,
    works_on="tensor",
    data="unlabelled",
    observation="features",
    working_set=WorkingSet(stacks=0.1, tensors=6.5, observed=4.8, projected=2.5),
)
def lot(
    task_vectors: Float[Tensor, " n *shape"],
    layer: Layer,
    observed: Observed | None,
    *,
    scale: Scale = 1.0,
    cutoff: CutOff = 1e-6,
    trail: Trail = NO_TRAIL,
) -> Float[Tensor, " *shape"]:
    """The task vector whose layer outputs are nearest to each expert's on that expert's inputs.

    Matrices: T* = argmin_T Σ_k ‖X_k (T − τ_k)ᵀ‖² = (Σ_k τ_k S_k)(Σ_k S_k)⁺ with S_k = X_kᵀX_k/n_k. Scales: entry by
    entry the mean of the τ_k weighted by the mean square of their normalised inputs. Shifts: the mean.
    τ* = α T*, with α the scale.

    Scope: per tensor.
    Variant: the paper's closed forms on task vectors. The pseudo-inverse makes T* zero on inputs that no
        expert's data contain. A kernel is a matrix over unfolded patches, each group of a convolution by itself.
        What no data reached, and embeddings, become the mean of the task vectors. The features are meant to be
        those of the whole experts.
    Differs from the paper: S_k is divided by the number of rows, so that experts with more of them do not weigh
        more; equal numbers make it the paper's. A scale's entry that is never active becomes the mean. That
        other tensors become the mean, that α is 1, and the cutoff of the pseudo-inverse are inferred: the
        closed forms are all that is known for certain.
    Reference: Sun et al., "Towards Minimizing Feature Drift in Model Merging: Layer-wise Task Vector Fusion for
        Adaptive Knowledge Integration", NeurIPS 2025, arXiv:2505.23859, equations 9 and 12.

    Args:
        task_vectors: [n, *shape], floating; one row per expert, in spec order.
        layer: what the tensor does.
        observed: each expert's features; None where no data reached the tensor.
        scale: factor on the merged task vector.
        cutoff: singular values of all features below this share of the largest count as zero, in [1e-7, 1).
        trail: takes the drift that is left, and what lay outside of the data.

    Returns:
        [*shape], dtype of task_vectors.
    """
    trail.note("reached by data", lambda: torch.tensor(float(observed is not None)))
    if observed is None or task_vectors.numel() == 0:
        merged = mean_rows(task_vectors)
    elif layer.role == "scale":
        check_values(observed.values, len(task_vectors), width=layer.shape[0])
        merged = _weighted_mean(task_vectors, observed.values)
    elif layer.role in ("linear", "convolution"):
        units = weight_units(layer, observed.values, len(task_vectors))
        merged = _nearest(task_vectors, units, cutoff, trail)
    else:
        merged = mean_rows(task_vectors)
    return scale * merged


def _weighted_mean(task_vectors: Tensor, features: Sequence[Tensor]) -> Tensor:
    """Σ_k s_k τ_k / Σ_k s_k, and the mean where nothing is active."""
    power = torch.stack([(rows.double() ** 2).sum(dim=0) / max(len(rows), 1) for rows in features])
    power = torch.where(sum_rows(power) > 0, power, 1.0)
    return (sum_rows(power * task_vectors) / sum_rows(power)).to(task_vectors.dtype)


def _nearest(task_vectors: Tensor, units: Sequence[Unit], cutoff: float, trail: Trail) -> Tensor:
    """The solution for each unit, and what it leaves."""
    matrices = task_vectors.reshape(len(task_vectors), -1, prod(task_vectors.shape[2:]))
    merged, fits = torch.empty_like(matrices[0]), []
    for unit in units:
        outputs = [
            factor @ matrix[unit.rows].double().T
            for factor, matrix in zip(unit.factors, matrices, strict=True)
        ]
        fit = smallest_fit(torch.cat(unit.factors), torch.cat(outputs), cutoff=cutoff)
        merged[unit.rows] = fit.solution.T.to(merged.dtype)
        fits.append(fit)
    trail.note("drift left", partial(_drift, matrices, merged, units))
    trail.note("energy outside of the data", partial(_outside, matrices, units, fits))
    trail.note("directions in the data", lambda: torch.tensor(float(sum(fit.basis.shape[1] for fit in fits))))
    return merged.reshape(task_vectors.shape[1:])


def _drift(matrices: Tensor, merged: Tensor, units: Sequence[Unit]) -> Tensor:
    """‖X_k (T − τ_k)ᵀ‖² / ‖X_k τ_kᵀ‖² of each expert."""
    return ratio(_moved(matrices - merged, units), _moved(matrices, units))


def _moved(matrices: Tensor, units: Sequence[Unit]) -> Tensor:
    moved = [
        sum((unit.factors[k] @ matrix[unit.rows].double().T).square().sum() for unit in units)
        for k, matrix in enumerate(matrices)
    ]
    return torch.stack(moved)


def _outside(matrices: Tensor, units: Sequence[Unit], fits: Sequence[Fit]) -> Tensor:
    """The share of each expert's energy on inputs that no expert's data contain."""
    energy = (matrices.double() ** 2).sum(dim=(1, 2))
    inside = [
        sum(
            (matrix[unit.rows].double() @ fit.basis).square().sum()
            for unit, fit in zip(units, fits, strict=True)
        )
        for matrix in matrices
    ]
    return ratio((energy - torch.stack(inside)).clamp(min=0), energy)
