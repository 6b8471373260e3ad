"""NeuroMerging: each neuron's change merged along its base weights and orthogonal to them."""

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, partial
from math import prod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.layers import Layer
from merge_lib.looks import Look
from merge_lib.ops.masses import count_magnitudes, exact_masses
from merge_lib.ops.neurons import merge_neurons
from merge_lib.ops.quantile import (
    Thresholds,
    begin_thresholds,
    close_thresholds,
    fold_thresholds,
    join_thresholds,
    survivor_count,
)
from merge_lib.ops.shares import ratio, share_of_mass
from merge_lib.ops.signs import elected_mean
from merge_lib.ops.sparsify import keep_large
from merge_lib.registry import ModelStatistics, merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import Density, Scale, Share
from merge_lib.working_set import WorkingSet

_LARGEST_COMPENSATION = 8.0
_BLOCK = 1 << 17  # elements that are merged at once, so that they stay near the processor


@dataclass(frozen=True)
class Masks:
    """Each expert's threshold over the whole model, and what the masks remove."""

    thresholds: Thresholds
    weighs: bool  # the removed mass is needed
    complete: bool
    removed: Tensor | None = None  # counts of `merge_lib.ops.masses`
    total: Tensor | None = None

    @cached_property
    def removed_shares(self) -> list[float]:
        """σ_t, the share of each expert's L1 mass that its mask removes; 0 where nothing is."""
        if self.removed is None or self.total is None:
            return [0.0] * len(self.thresholds.prefix)
        pairs = zip(exact_masses(self.removed), exact_masses(self.total), strict=True)
        return [float(Fraction(removed, total)) if total else 0.0 for removed, total in pairs]

    @property
    def compensation(self) -> float:
        """1/(1 − max_t σ_t), at most 8."""
        kept = 1 - max(self.removed_shares)
        return min(1 / kept, _LARGEST_COMPENSATION) if kept > 0 else _LARGEST_COMPENSATION


def begin(count: int, dtype: torch.dtype, *, density: Density, compensate: bool, **_: Any) -> Masks:
    """No pass where nothing is masked."""
    thresholds = begin_thresholds(count, dtype, share=density)
    return Masks(thresholds, weighs=compensate and density < 1, complete=thresholds.complete)


def fold(state: Masks, task_vectors: Float[Tensor, " n *shape"], _layer: Layer) -> Masks:
    """Count one tensor: first for the thresholds, then for the mass that they remove."""
    if not state.thresholds.complete:
        return replace(state, thresholds=fold_thresholds(state.thresholds, task_vectors))
    limits = state.thresholds.values.tolist()
    kept = [row[row.abs() >= limit] for row, limit in zip(task_vectors, limits, strict=True)]
    total = count_magnitudes(task_vectors)
    removed = total - count_magnitudes(kept)
    if state.removed is not None:
        removed, total = state.removed + removed, state.total + total
    return replace(state, removed=removed, total=total)


def close(state: Masks) -> Masks:
    """End a pass."""
    if state.thresholds.complete:
        return replace(state, complete=True)
    thresholds = close_thresholds(state.thresholds, survivor_count)
    return replace(state, thresholds=thresholds, complete=thresholds.complete and not state.weighs)


def join(state: Masks, other: Masks) -> Masks:
    """What two have counted in the same pass, each from its beginning."""
    if not state.thresholds.complete:
        return replace(state, thresholds=join_thresholds(state.thresholds, other.thresholds))
    if state.removed is None or other.removed is None:
        return other if state.removed is None else state
    return replace(state, removed=state.removed + other.removed, total=state.total + other.total)  # type: ignore[operator]


@merge_method(
    name="neuromerging",
    title="NeuroMerging",
    paper="https://arxiv.org/abs/2503.05320",
    needs_base=True,
    order_free=True,
    scope="model",
    works_on="row",
    statistics=ModelStatistics(
        begin,
        fold,
        close,
        join,
        looks=(Look("threshold", unless={"density": 1}), Look(unless={"density": 1, "compensate": False})),
    ),
    working_set=WorkingSet(stacks=2.3, tensors=5.5),
)
def neuromerging(
    task_vectors: Float[Tensor, " n *shape"],
    base: Float[Tensor, " *shape"],
    statistics: Masks,
    *,
    density: Density = 0.15,  # noqa: ARG001 -- the statistics went by it
    parallel_scale: Scale = 0.0,
    orthogonal_scale: Scale = 1.0,
    compensate: bool = True,
    energy: Share = 1.0,
    trail: Trail = NO_TRAIL,
) -> Float[Tensor, " *shape"]:
    """The masked task vectors, merged neuron by neuron along the base neuron and orthogonal to it.

    With ŵ = w_0/‖w_0‖ and τ̂_t a neuron's masked change: a_t = ⟨τ̂_t, ŵ⟩ and Q = stack_t(τ̂_t − a_t ŵ) = UΣVᵀ;
    τ* = λ1 · elect_t(a_t) · ŵ + λ2 · V · elect_t(QV), column by column, where elect is the mean of the entries
    that have the sign of their sum. λ1 is the parallel scale, λ2 the orthogonal scale times 1/(1 − σ),
    σ = max_t ‖τ_t − τ̂_t‖₁/‖τ_t‖₁ over the whole model. Tensors of one axis or none: λ2 · elect_t(τ̂_t).

    Scope: whole model; before the pass that merges, two passes find the thresholds (four for float64) and one
        the removed mass; none with density 1.
    Variant: a neuron is an entry of the first axis, of matrices, kernels, embedding tables and all else of two
        axes or more. Masks over the whole model: with N entries and k = ⌊(1 − density)·N⌋ the k-th smallest
        magnitude is the least that is kept, so N − k + 1 are, and those equal to it. The singular vectors
        come from each neuron's Gram matrix [n, n] in float64. λ1 = 0 as the paper has it without validation data.
    Differs from the paper: entries below 1e-6 of a neuron's largest singular value count as zeros, where the
        authors' code lets rounding vote; where the experts cancel to 1e-6 the mean is 0, where it takes the
        majority sign of the tensor; the parallel part is not divided by ‖w_0‖ once more; along a neuron
        of zeros nothing is parallel; 1/(1 − σ) is at most 8; σ is of the removed entries, as the paper's
        formula leaves open. The paper confirms no density; 0.15 is ours. Matrices that are stored [in, out],
        such as GPT-2's, have inputs for neurons.
    Reference: Fang et al., "To See a World in a Spark of Neuron: Disentangling Multi-task Interference for
        Training-free Model Merging", EMNLP 2025, arXiv:2503.05320.

    Args:
        task_vectors: [n, *shape], floating; one row per expert, in spec order.
        base: [*shape].
        statistics: each expert's threshold over the whole model, and the mass below it.
        density: share of entries kept in each task vector, in (0, 1].
        parallel_scale: factor on the part along the base neurons.
        orthogonal_scale: factor on the orthogonal part, and on tensors of one axis.
        compensate: the orthogonal scale is divided by the share of mass that the masks keep.
        energy: share of a neuron's squared singular values that the directions kept must reach, in (0, 1].
        trail: takes what the masks removed, what lay along the neurons, and what was outvoted.

    Returns:
        [*shape], dtype of task_vectors.
    """
    masked = keep_large(task_vectors, statistics.thresholds.values)
    scale = orthogonal_scale * (statistics.compensation if compensate else 1.0)
    _note_masks(trail, task_vectors, masked, statistics, scale)
    if base.ndim <= 1:
        merged = elected_mean(masked)
        trail.note("outvoted energy", lambda: share_of_mass(masked * (masked * merged <= 0), masked))
        return scale * merged
    rows, length = base.shape[0], prod(base.shape[1:])
    columns, neurons = masked.reshape(len(masked), rows, length), base.reshape(rows, length)
    result = torch.empty(rows, length, dtype=masked.dtype)
    energies = torch.zeros(4, len(masked), dtype=torch.float64)
    step = max(1, _BLOCK // max(1, len(masked) * length))
    for start in range(0, rows, step):
        block = slice(start, start + step)
        parts = merge_neurons(columns[:, block], neurons[block], energy=energy)
        result[block] = (parallel_scale * parts.parallel + scale * parts.orthogonal).to(result.dtype)
        energies += parts.energies
    for place, quantity in enumerate(("parallel energy", "outvoted energy", "cut energy"), start=1):
        trail.note(quantity, partial(ratio, energies[place], energies[0]))
    return result.reshape(base.shape)


def _note_masks(trail: Trail, task_vectors: Tensor, masked: Tensor, statistics: Masks, scale: float) -> None:
    """What the masks took from this tensor and from the model, and what makes up for it."""
    trail.note("share kept", lambda: share_of_mass(masked.sign(), task_vectors.sign()))
    trail.note("removed mass", lambda: share_of_mass(task_vectors - masked, task_vectors, power=1))
    trail.note("removed mass of the model", lambda: torch.tensor(statistics.removed_shares))
    trail.note("orthogonal scale", lambda: torch.tensor(scale, dtype=torch.float64))
