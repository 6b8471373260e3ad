"""WUDI: the merged matrix that disturbs each task least, where the task's own changes tell what its inputs are."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.layers import Layer
from merge_lib.ops.adam import minimise
from merge_lib.ops.subspace import gram, pseudo_inverse
from merge_lib.ops.sums import mean_rows, sum_rows
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import CutOff, LearningRate, Steps
from merge_lib.working_set import WorkingSet


@dataclass(frozen=True)
class Interference:
    """Half the objective's gradient at Δ is (Δ − start) · curvature + slope."""

    start: Float[Tensor, "m n"]  # Σ_i τ_i
    curvature: Float[Tensor, "n n"]  # Σ_i τ_iᵀ τ_i / c_i, float64
    slope: Float[Tensor, "m n"]  # Σ_i (start − τ_i) τ_iᵀ τ_i / c_i, float64


@merge_method(
    name="wudi",
    title="WUDI-Merging",
    paper="https://arxiv.org/abs/2503.08099",
    needs_base=True,
    order_free=True,
    works_on="tensor",
    working_set=WorkingSet(stacks=0.0, tensors=13.0, inputs=5.2),
)
def wudi(
    task_vectors: Float[Tensor, " n *shape"],
    layer: Layer,
    *,
    solver: Literal["closed_form", "gradient"] = "closed_form",
    steps: Steps = 300,
    learning_rate: LearningRate = 1e-5,
    cut_off: CutOff = 1e-6,
    trail: Trail = NO_TRAIL,
) -> Float[Tensor, " *shape"]:
    """The task vector whose difference to each task's own is as far as possible orthogonal to that task's rows.

    τ* = argmin_Δ Σ_i ‖(Δ − τ_i) τ_iᵀ‖_F² / c_i, c_i = ‖τ_i‖_F².  With S = Σ_i τ_iᵀτ_i / c_i, Δ_0 = Σ_i τ_i and
    R = Σ_i (Δ_0 − τ_i) τ_iᵀτ_i / c_i the gradient is 2 ((Δ − Δ_0) S + R), so that τ* = Δ_0 − R S⁺.

    Scope: per tensor.
    Variant: the paper's objective, divided by the squared norm; the authors' code for vision models divides by
        the norm. `solver="gradient"` is the paper's: Adam from Δ_0, which these few small steps do not leave
        far behind; one product a step, whatever the number of tasks. `solver="closed_form"` is the minimum
        itself, ours. Linear weights are merged so, as attention's and MLPs' in the authors' code; of all other
        tensors, embeddings and convolutions too, the mean is taken.
    Differs from the paper: a task vector that is zero adds nothing to the objective. In closed form, directions
        whose singular value, of all τ_i / √c_i stacked, is at most cut_off times the largest keep Δ_0; S has
        the square of their condition, so that the error is about 1e-16 / cut_off² at most.
    Reference: Cheng et al., "Whoever started the interference should end it", ICML 2025, arXiv:2503.08099.

    Args:
        task_vectors: [n, *shape], floating; one row per expert, in spec order.
        layer: says whether this is a linear weight.
        solver: the minimum, or so many steps of Adam towards it.
        steps: of Adam.
        learning_rate: of Adam.
        cut_off: in closed form, singular values of at most this share of the largest count as zero.
        trail: is told how much interference is left.

    Returns:
        [*shape], dtype of task_vectors.
    """
    if layer.role != "linear" or task_vectors.numel() == 0:
        return mean_rows(task_vectors)
    interference = measure(task_vectors)
    if solver == "closed_form":
        inverse = pseudo_inverse(interference.curvature, cut_off**2)
        merged = interference.start - (interference.slope @ inverse).to(task_vectors.dtype)
    else:
        merged = descend(interference, steps=steps, learning_rate=learning_rate)
    trail.note("interference of the sum", lambda: disturbances(interference.start, task_vectors))
    trail.note("interference left", lambda: disturbances(merged, task_vectors))
    return merged


def measure(task_vectors: Float[Tensor, "t m n"]) -> Interference:
    """The objective's constants, in float64."""
    start = sum_rows(task_vectors)
    curvature = torch.zeros(task_vectors.shape[2:] * 2, dtype=torch.float64)
    slope = torch.zeros(start.shape, dtype=torch.float64)
    for task_vector in task_vectors:
        norm = task_vector.double().square().sum()
        if norm > 0:
            own = gram(task_vector) / norm
            curvature += own
            slope += (start - task_vector).double() @ own
    return Interference(start, curvature, slope)


def descend(interference: Interference, *, steps: int, learning_rate: float) -> Float[Tensor, "m n"]:
    """Adam from the sum, in the dtype of the task vectors."""
    start, dtype = interference.start, interference.start.dtype
    curvature, slope = 2 * interference.curvature.to(dtype), 2 * interference.slope.to(dtype)

    def gradient(point: Tensor) -> Tensor:
        return torch.addmm(slope, point - start, curvature)

    return minimise(start, gradient, steps=steps, learning_rate=learning_rate)


def disturbances(merged: Float[Tensor, "m n"], task_vectors: Float[Tensor, "t m n"]) -> Float[Tensor, " t"]:
    """Each task's term of the objective."""
    terms = []
    for task_vector in task_vectors.double():
        norm = task_vector.square().sum()
        term = ((merged.double() - task_vector) @ task_vector.mT).square().sum()
        terms.append(term / norm.clamp(min=torch.finfo(torch.float64).tiny))
    return torch.stack(terms)
