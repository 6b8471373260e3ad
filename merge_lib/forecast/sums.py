"""Sums over the entries of task vectors and of a merge, from which every feature in weight space is a quotient.

They add up over tensors, so a feature of a region or of a model is that of its tensors put end to end.
"""

from dataclasses import dataclass, fields
from math import prod
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.ops.neurons import merge_neurons

_AT_ONCE = 1 << 18  # float64 entries of all experts in one piece
_ROWS = 256  # of a matrix that take part in products of matrices with one another
_BLOCK = 1 << 17  # entries whose neurons are taken apart at once


class _Sums:
    """Sums that are added field by field."""

    def __add__(self, other: Self) -> Self:
        return type(self)(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class PairSums(_Sums):
    """What the task vectors of n experts are to one another; float64.

    Attributes:
        products: ⟨τ_t, τ_s⟩, [n, n].
        base: ‖θ_0‖², [1].
        outvoted: Σ τ_t,i² over entries with τ_t,i · Σ_s τ_s,i < 0, [n].
        inputs: ‖τ_t τ_sᵀ‖² of matrices, [n, n]: whether they read the same directions.
        outputs: ‖τ_tᵀ τ_s‖² of matrices, [n, n]: whether they write the same directions.
        matrices: Σ τ_t² over the entries of matrices, [n].
        parallel: Σ_r ⟨τ_t,r, ŵ_r⟩² over the neurons r of matrices, [n].
        neurons_outvoted: Σ of the squared orthogonal coordinates of τ_t whose sign lost, [n].
        squares: Σ_i τ_t,i² τ_s,i², [n, n].
        cubes: Σ_i τ_t,i³ τ_s,i, [n, n].
    """

    products: Tensor
    base: Tensor
    outvoted: Tensor
    inputs: Tensor
    outputs: Tensor
    matrices: Tensor
    parallel: Tensor
    neurons_outvoted: Tensor
    squares: Tensor
    cubes: Tensor


@dataclass(frozen=True)
class MergeSums(_Sums):
    """What a merged task vector Δ is to each expert's; float64, [n]. A merge may have a Δ for each task.

    Attributes:
        energy: ‖Δ‖².
        product: ⟨Δ, τ_t⟩.
        opposed: Σ τ_t,i² over entries with τ_t,i Δ_i < 0.
        reached: ‖Δ τ_tᵀ‖² of matrices.
        own: ⟨Δ τ_tᵀ, τ_t τ_tᵀ⟩ of matrices.
        squares: Σ τ_t,i² Δ_i².
        cubes: Σ τ_t,i³ Δ_i.
    """

    energy: Tensor
    product: Tensor
    opposed: Tensor
    reached: Tensor
    own: Tensor
    squares: Tensor
    cubes: Tensor


def pair_sums(task_vectors: Float[Tensor, " n *shape"], base: Float[Tensor, " *shape"]) -> PairSums:
    """The sums of one tensor.

    Products of matrices are of at most 256 rows of each, evenly spaced; kernels count as matrices [out, all else].
    """
    rows = _flat(task_vectors)
    count = len(rows)
    small = rows.new_zeros(count, count, dtype=torch.float64)
    products, squares, cubes = small, small.clone(), small.clone()
    outvoted = small[0].clone()
    for piece in rows.split(max(1, _AT_ONCE // count), dim=1):
        wide = piece.double()
        power = wide.square()
        products = products + wide @ wide.T
        squares += power @ power.T
        cubes += (power * wide) @ wide.T
        outvoted += (power * (wide * wide.sum(0) < 0)).sum(1)
    inputs, outputs = _matrix_products(task_vectors)
    neurons = _neuron_energies(task_vectors, base)
    energy = base.double().square().sum().reshape(1)
    return PairSums(products, energy, outvoted, inputs, outputs, *neurons, squares, cubes)


def merge_sums(task_vectors: Float[Tensor, " n *shape"], merged: Float[Tensor, " m *shape"]) -> MergeSums:
    """The sums of one tensor.

    Args:
        task_vectors: one row per expert.
        merged: Δ; one row, or one per expert of methods that give a model for each task.
    """
    rows, changes = _flat(task_vectors), _flat(merged)
    count = len(rows)
    total = torch.zeros(5, count, dtype=torch.float64)
    size = max(1, _AT_ONCE // count)
    for row, change in zip(rows.split(size, dim=1), changes.split(size, dim=1), strict=True):
        wide, moved = row.double(), change.double()
        power, both = wide.square(), wide * moved
        total[0] += moved.square().sum(1)
        total[1] += both.sum(1)
        total[2] += (power * (both < 0)).sum(1)
        total[3] += both.square().sum(1)
        total[4] += (power * both).sum(1)
    return MergeSums(total[0], total[1], total[2], *_reach(task_vectors, merged), total[3], total[4])


def _flat(stack: Tensor) -> Tensor:
    return stack.reshape(len(stack), stack[0].numel())


def _matrices(stack: Tensor) -> Tensor | None:
    """[n, rows, d] in float64, rows evenly spaced; None of vectors."""
    if stack.ndim < 3 or stack[0].numel() == 0:
        return None
    rows = stack.reshape(len(stack), stack.shape[1], prod(stack.shape[2:]))
    step = -(-rows.shape[1] // _ROWS)
    return rows[:, ::step].double()


def _matrix_products(task_vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Energies of τ_t τ_sᵀ and of τ_tᵀ τ_s, [n, n] each."""
    count, rows = len(task_vectors), _matrices(task_vectors)
    if rows is None:
        return torch.zeros(2, count, count, dtype=torch.float64).unbind()  # type: ignore[return-value]
    inputs = [[(one @ other.T).square().sum() for other in rows] for one in rows]
    grams = rows @ rows.mT  # [n, rows, rows]; ‖τ_tᵀτ_s‖² = ⟨τ_tτ_tᵀ, τ_sτ_sᵀ⟩
    flat = grams.reshape(count, -1)
    return torch.stack([torch.stack(line) for line in inputs]), flat @ flat.T


def _reach(task_vectors: Tensor, merged: Tensor) -> tuple[Tensor, Tensor]:
    """‖Δ τ_tᵀ‖² and ⟨Δ τ_tᵀ, τ_t τ_tᵀ⟩, [n] each."""
    rows, changes = _matrices(task_vectors), _matrices(merged)
    if rows is None or changes is None:
        return torch.zeros(2, len(task_vectors), dtype=torch.float64).unbind()  # type: ignore[return-value]
    reached = [changes[min(t, len(changes) - 1)] @ row.T for t, row in enumerate(rows)]
    own = [(one * (row @ row.T)).sum() for one, row in zip(reached, rows, strict=True)]
    return torch.stack([one.square().sum() for one in reached]), torch.stack(own)


def _neuron_energies(task_vectors: Tensor, base: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of NeuroMerging's coordinates: all energy of matrices, that along the base's neurons, that outvoted; [n] each."""
    total = torch.zeros(4, len(task_vectors), dtype=torch.float64)
    if task_vectors.ndim > 2 and base.numel():
        length = prod(base.shape[1:])
        rows, neurons = task_vectors.reshape(len(task_vectors), -1, length), base.reshape(-1, length)
        step = max(1, _BLOCK // (len(rows) * length))
        for some, own in zip(rows.split(step, dim=1), neurons.split(step), strict=True):
            total += merge_neurons(some, own, energy=1.0).energies
    return total[0], total[1], total[2]
