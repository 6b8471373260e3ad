"""CAT Merging: task vectors without what disturbs the features of other tasks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.layers import Layer
from merge_lib.learned import Observed
from merge_lib.ops.directions import largest_positive, leading_directions
from merge_lib.ops.features import Unit, check_values, weight_units
from merge_lib.ops.shares import share_of_mass
from merge_lib.ops.sums import sum_rows
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import Natural, Scale, Weight
from merge_lib.working_set import WorkingSet

_ROUNDING = 1e-12  # relative


@dataclass(frozen=True)
class Trimmed:
    """Task vectors after the trim, and what each expert's features asked to remove from the others.

    Attributes:
        task_vectors: [n, *shape].
        counts: [n], directions or entries.
        conflict: [n], the sum of their eigenvalues or scores.
    """

    task_vectors: Tensor
    counts: list[float] = field(default_factory=list)
    conflict: list[float] = field(default_factory=list)


@merge_method(
    name="cat",
    title="CAT Merging",
    paper="https://arxiv.org/abs/2505.06977",
    needs_base=True,
    order_free=False,
    works_on="tensor",
    data="unlabelled",
    observation="features",
    working_set=WorkingSet(stacks=1.2, tensors=8.0, observed=2.0, projected=4.0, pairs=1.0),
)
def cat(
    task_vectors: Float[Tensor, " n *shape"],
    layer: Layer,
    observed: Observed | None,
    *,
    scale: Scale = 0.4,
    own_knowledge: Weight = 5.0,
    own_knowledge_scales: Weight = 10.0,
    rank: Natural = 4,
    masked_scales: Natural = 4,
    masked_shifts: Natural = 4,
    restore_norm: bool = False,
    trail: Trail = NO_TRAIL,
) -> Float[Tensor, " *shape"]:
    """The scaled sum of task vectors from which what conflicts with other tasks' features was removed.

    Matrices: B_k = the eigenvectors of Σ_{i≠k} τ_i (S_k − λ S_i) τ_iᵀ with the largest positive eigenvalues,
    S_j = X_jᵀX_j/n_j; τ_i ← (I − B_k B_kᵀ) τ_i for all k ≠ i. Scales: g_k = Σ_{i≠k} τ_i² ⊙ (s_k − λ_s s_i), s_j
    the mean square of the normalised inputs; shifts: g_k = Σ_{i≠k} τ_i². Where g_k is largest and positive, all τ_i
    with i ≠ k become 0. τ* = α Σ_i τ_i. α is the scale, λ and λ_s the weights of own knowledge.

    Scope: per tensor.
    Variant: the paper's formulas, in which the trim only takes away. All bases and masks come from the vectors
        before any trim and are applied to each of them in spec order of k; projections do not commute, so with
        three experts or more the order matters. Each part of a packed matrix or shift, and each group of a
        convolution, is trimmed by itself; kernels are matrices over unfolded patches. What no data reached,
        embeddings and all else are merged by task arithmetic. The features may be those of the experts scaled
        by α, as in the authors' code, or of the whole experts: calibration decides.
    Differs from the paper: S_j is divided by the number of rows, so that experts with more of them do not
        weigh more; only positive eigenvalues and scores count; those that are equal are removed together or,
        where there is no room for all, not at all. A shift's score is of the other experts, as the formula has it;
        the authors' code is said to square the expert's own. `restore_norm` gives matrices and scales their norm
        back after each removal, which only that code does.
    Reference: Sun et al., "CAT Merging: A Training-Free Approach for Resolving Conflicts in Model Merging",
        ICML 2025, arXiv:2505.06977.

    Args:
        task_vectors: [n, *shape], floating; one row per expert, in spec order.
        layer: what the tensor does.
        observed: each expert's features; None where no data reached the tensor.
        scale: factor on the sum.
        own_knowledge: weight of what a removal costs the expert itself, for matrices; at least 0.
        own_knowledge_scales: the same for scales.
        rank: how many directions each expert's features may remove from the others, per matrix.
        masked_scales: how many entries of a scale they may remove.
        masked_shifts: how many entries of a shift, or of each of its packed parts.
        restore_norm: each removal is followed by a rescale to the norm before it.
        trail: takes what was removed from each expert, and for whose features.

    Returns:
        [*shape], dtype of task_vectors.
    """
    trimmed = Trimmed(task_vectors)
    if layer.role == "shift":
        trimmed = _mask_shifts(task_vectors, masked_shifts, layer.parts)
    elif observed is not None and task_vectors.numel() and layer.role == "scale":
        check_values(observed.values, len(task_vectors), width=layer.shape[0])
        trimmed = _mask_scales(task_vectors, observed, own_knowledge_scales, masked_scales, restore_norm)
    elif observed is not None and task_vectors.numel() and layer.role in ("linear", "convolution"):
        units = weight_units(layer, observed.values, len(task_vectors), layer.parts)
        trimmed = _project(task_vectors, units, own_knowledge, rank, restore_norm)
    _note(trail, task_vectors, trimmed, reached=observed is not None)
    return scale * sum_rows(trimmed.task_vectors)


def _project(task_vectors: Tensor, units: Sequence[Unit], weight: float, rank: int, restore: bool) -> Trimmed:
    """Every unit of a matrix or kernel without the directions that others' features ask to remove."""
    count, length = len(task_vectors), prod(task_vectors.shape[2:])
    matrices = task_vectors.reshape(count, -1, length).clone()
    counts, conflict = [0.0] * count, [0.0] * count
    for unit in units:
        bases = conflict_bases(matrices[:, unit.rows], unit.factors, weight=weight, rank=rank)
        for place, (basis, values) in enumerate(bases):
            counts[place] += basis.shape[1]
            conflict[place] += values.sum().item()
        for place in range(count):
            others = [basis for k, (basis, _) in enumerate(bases) if k != place and basis.shape[1]]
            if others:
                rows = matrices[place, unit.rows]
                matrices[place, unit.rows] = _remove(rows.double(), others, restore).to(rows.dtype)
    return Trimmed(matrices.reshape(task_vectors.shape), counts, conflict)


def conflict_bases(
    matrices: Float[Tensor, " n out inputs"],
    factors: Sequence[Float[Tensor, " _ inputs"]],
    *,
    weight: float,
    rank: int,
) -> list[tuple[Float[Tensor, " out _"], Float[Tensor, " _"]]]:
    """For each expert's features the output directions to remove from the others, and their eigenvalues."""
    sizes = [len(factor) for factor in factors]
    stacked = torch.cat(list(factors))
    outputs = [
        (stacked @ matrix.double().T).split(sizes) for matrix in matrices
    ]  # [i][k]: F_k τ_iᵀ, [r_k, out]
    bases = []
    for k in range(len(matrices)):
        others = [i for i in range(len(matrices)) if i != k]
        conflict = [outputs[i][k] for i in others]
        own = [outputs[i][i] for i in others]
        rows = torch.cat([matrices.new_empty(0, matrices.shape[1], dtype=torch.float64), *conflict, *own])
        weights = rows.new_ones(len(rows))
        weights[sum(map(len, conflict)) :] = -weight
        bases.append(leading_directions(rows, weights, rank))
    return bases


def _remove(rows: Tensor, bases: Sequence[Tensor], restore: bool) -> Tensor:
    """(I − BBᵀ) rows for one basis after the other."""
    for basis in bases:
        left = rows - basis @ (basis.T @ rows)
        rows = _restored(left, rows) if restore else left
    return rows


def _restored(left: Tensor, before: Tensor) -> Tensor:
    """Scaled to the norm of before; zeros where only rounding is left."""
    norm, target = left.norm(), before.norm()
    return left * (target / norm) if norm > _ROUNDING * target else torch.zeros_like(left)


def _mask_scales(
    task_vectors: Tensor, observed: Observed, weight: float, count: int, restore: bool
) -> Trimmed:
    """Normalisation scales without the entries where others' features say so."""
    power = [(value.double() ** 2).sum(dim=0) / max(len(value), 1) for value in observed.values]  # s_j, [d]
    scores = _of_others(task_vectors, lambda k, i: power[k] - weight * power[i])
    weighed = _of_others(task_vectors, lambda k, i: power[k] + weight * power[i])
    return _mask(task_vectors, scores, _ROUNDING * weighed.norm(dim=1), count, restore=restore)


def _mask_shifts(task_vectors: Tensor, count: int, parts: int) -> Trimmed:
    """Shifts without the entries where the others change most."""
    scores = _of_others(task_vectors, lambda _k, _i: 1.0)
    return _mask(task_vectors, scores, torch.zeros(len(scores)), count, parts=parts)


def _of_others(task_vectors: Tensor, weight: Callable[[int, int], Tensor | float]) -> Tensor:
    """Σ_{i≠k} weight(k, i) τ_i² for each k, [n, d]."""
    squares = task_vectors.double() ** 2
    scores = torch.zeros_like(squares)
    for k in range(len(squares)):
        for i in range(len(squares)):
            if i != k:
                scores[k] += weight(k, i) * squares[i]
    return scores


def _mask(
    task_vectors: Tensor, scores: Tensor, noise: Tensor, count: int, *, parts: int = 1, restore: bool = False
) -> Trimmed:
    """Every vector without the entries that the scores of the others pick, `count` of each part."""
    picked = [
        torch.cat([largest_positive(part, count, least) for part in row.reshape(parts, -1)])
        for row, least in zip(scores, noise.tolist(), strict=True)
    ]
    masked = task_vectors.clone()
    for i, vector in enumerate(task_vectors):
        for k, mask in enumerate(picked):
            if k != i and mask.any():
                left = vector * ~mask
                vector = _restored(left, vector) if restore else left  # noqa: PLW2901 -- one mask after the other
        masked[i] = vector
    conflict = [row[mask].sum().item() for row, mask in zip(scores, picked, strict=True)]
    return Trimmed(masked, [float(mask.sum()) for mask in picked], conflict)


def _note(trail: Trail, task_vectors: Tensor, trimmed: Trimmed, *, reached: bool) -> None:
    """What was removed from each expert; and for each, how much its features removed from the others."""
    trail.note("reached by data", lambda: torch.tensor(float(reached)))
    trail.note("removed energy", lambda: share_of_mass(task_vectors - trimmed.task_vectors, task_vectors))
    if trimmed.counts:
        trail.note("directions or entries it removed from others", lambda: torch.tensor(trimmed.counts))
        trail.note("conflict it removed", lambda: torch.tensor(trimmed.conflict, dtype=torch.float64))
