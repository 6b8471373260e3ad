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
    """What the task vectors of n experts are to one another; float64. A row r is an entry of a matrix's first axis.

    Attributes:
        tensors: how many, [1].
        products: ⟨τ_t, τ_s⟩, [n, n].
        base: ‖θ_0‖², [1].
        outvoted: Σ τ_t,i² over entries with τ_t,i · Σ_s τ_s,i < 0, [n].
        squares: Σ_i τ_t,i² τ_s,i², [n, n].
        cubes: Σ_i τ_t,i³ τ_s,i, [n, n].
        inputs: ‖τ_t τ_sᵀ‖² of matrices, [n, n]: whether they read the same directions.
        outputs: ‖τ_tᵀ τ_s‖² of matrices, [n, n]: whether they write the same directions.
        rows: Σ_r ‖τ_t,r‖² ‖τ_s,r‖² of matrices, [n, n]: whether they change the same rows.
        focus: Σ over matrices of R · Σ_r ‖τ_t,r‖⁴ / ‖τ_t‖², R the number of rows, [n].
        matrices: Σ τ_t² over the entries of matrices, [n].
        parallel: Σ_r ⟨τ_t,r, ŵ_r⟩² over the rows of matrices, ŵ_r the base's row of length 1, [n].
        neurons_outvoted: Σ of the squared orthogonal coordinates of τ_t whose sign lost, [n].
        kernels: how many of the tensors are matrices, [1].
        signal: Σ over matrices of ‖τ_t τ_tᵀ‖ / ‖(θ_0 + τ_t) τ_tᵀ‖, at most 4 each, [n].
    """

    tensors: Tensor
    products: Tensor
    base: Tensor
    outvoted: Tensor
    squares: Tensor
    cubes: Tensor
    inputs: Tensor
    outputs: Tensor
    rows: Tensor
    focus: Tensor
    matrices: Tensor
    parallel: Tensor
    neurons_outvoted: Tensor
    kernels: Tensor
    signal: Tensor


@dataclass(frozen=True)
class MergeSums(_Sums):
    """What a merged task vector Δ is to each expert's; float64. A merge may have a Δ for each task.

    Attributes:
        energy: ‖Δ‖², [n].
        products: ⟨Δ, τ_s⟩, [n, n]; row t is of the Δ of task t.
        opposed: Σ τ_t,i² over entries with τ_t,i Δ_i < 0, [n].
        squares: Σ τ_t,i² Δ_i², [n].
        cubes: Σ τ_t,i³ Δ_i, [n].
        reached: ‖Δ τ_tᵀ‖² of matrices, [n].
        own: ⟨Δ τ_tᵀ, τ_t τ_tᵀ⟩ of matrices, [n].
        rows: Σ_r ‖τ_t,r‖² ⟨Δ_r, τ_t,r⟩ of matrices, [n].
        perturbation: Σ over tensors of ‖Δ − τ_t‖ / ‖θ_0‖, the tensor's own norms, at most 4, [n].
        push: Σ over matrices of ‖(Δ − τ_t) τ_tᵀ‖ / ‖(θ_0 + τ_t) τ_tᵀ‖, at most 4 each, [n].
    """

    energy: Tensor
    products: Tensor
    opposed: Tensor
    squares: Tensor
    cubes: Tensor
    reached: Tensor
    own: Tensor
    rows: Tensor
    perturbation: Tensor
    push: Tensor


def pair_sums(task_vectors: Float[Tensor, " n *shape"], base: Float[Tensor, " *shape"]) -> PairSums:
    """The sums of one tensor.

    Products of matrices are of at most 256 rows of each, evenly spaced; kernels count as matrices [out, all else].
    """
    rows = _flat(task_vectors)
    count = len(rows)
    products, squares, cubes = torch.zeros(3, count, count, dtype=torch.float64).unbind()
    outvoted = torch.zeros(count, dtype=torch.float64)
    for piece in rows.split(max(1, _AT_ONCE // count), dim=1):
        wide = piece.double()
        power = wide.square()
        products = products + wide @ wide.T
        squares = squares + power @ power.T
        cubes = cubes + (power * wide) @ wide.T
        outvoted = outvoted + (power * (wide * wide.sum(0) < 0)).sum(1)
    one = torch.ones(1, dtype=torch.float64)
    energy = base.double().square().sum().reshape(1)
    return PairSums(
        one,
        products,
        energy,
        outvoted,
        squares,
        cubes,
        *_matrix_products(task_vectors),
        *_row_products(task_vectors),
        *_neuron_energies(task_vectors, base),
        *_signal(task_vectors, base),
    )


def merge_sums(
    task_vectors: Float[Tensor, " n *shape"],
    merged: Float[Tensor, " m *shape"],
    base: Float[Tensor, " *shape"],
) -> MergeSums:
    """The sums of one tensor.

    Args:
        task_vectors: one row per expert.
        merged: Δ; one row, or one per expert of methods that give a model for each task.
        base: the tensor of the base.
    """
    rows, changes = _flat(task_vectors), _flat(merged)
    count = len(rows)
    products = torch.zeros(count, count, dtype=torch.float64)
    energy, opposed, squares, cubes = torch.zeros(4, count, dtype=torch.float64).unbind()
    size = max(1, _AT_ONCE // count)
    for row, change in zip(rows.split(size, dim=1), changes.split(size, dim=1), strict=True):
        wide, moved = row.double(), change.double()
        power, both = wide.square(), wide * moved
        products = products + moved @ wide.T  # one row is added to all
        energy = energy + moved.square().sum(1)
        opposed = opposed + (power * (both < 0)).sum(1)
        squares = squares + both.square().sum(1)
        cubes = cubes + (power * both).sum(1)
    apart = (energy - 2 * products.diagonal() + rows.double().square().sum(1)).clamp(min=0).sqrt()
    norm = base.double().norm()
    perturbation = (apart / norm).clamp(max=4.0) if norm > 0 else torch.zeros_like(apart)
    return MergeSums(
        energy,
        products,
        opposed,
        squares,
        cubes,
        *_reach(task_vectors, merged),
        _row_reach(task_vectors, merged),
        perturbation,
        _push(task_vectors, merged, base),
    )


def _flat(stack: Tensor) -> Tensor:
    return stack.reshape(len(stack), stack[0].numel())


def _rows_of(stack: Tensor) -> Tensor | None:
    """[n, rows, d]; None of vectors."""
    if stack.ndim < 3 or stack[0].numel() == 0:
        return None
    return stack.reshape(len(stack), stack.shape[1], prod(stack.shape[2:]))


def _matrices(stack: Tensor) -> Tensor | None:
    """[n, at most 256 rows, d] in float64, rows evenly spaced; None of vectors."""
    rows = _rows_of(stack)
    return None if rows is None else rows[:, :: -(-rows.shape[1] // _ROWS)].double()


def _nothing(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.zeros(shape, dtype=torch.float64) for shape in shapes)


def _matrix_products(task_vectors: Tensor) -> tuple[Tensor, ...]:
    """‖τ_t τ_sᵀ‖² and ‖τ_tᵀ τ_s‖², [n, n] each."""
    count, rows = len(task_vectors), _matrices(task_vectors)
    if rows is None:
        return _nothing((count, count), (count, count))
    inputs = [torch.stack([(one @ other.T).square().sum() for other in rows]) for one in rows]
    grams = (rows @ rows.mT).reshape(count, -1)  # ‖τ_tᵀ τ_s‖² = ⟨τ_t τ_tᵀ, τ_s τ_sᵀ⟩
    return torch.stack(inputs), grams @ grams.T


def _row_products(task_vectors: Tensor) -> tuple[Tensor, ...]:
    """Products of the rows' energies, [n, n], and how much fewer rows than all bear the energy, [n]."""
    count, rows = len(task_vectors), _rows_of(task_vectors)
    if rows is None:
        return _nothing((count, count), (count,))
    energies = torch.stack([one.double().square().sum(1) for one in rows])  # [n, rows]
    total = energies.sum(1)
    focus = torch.where(total > 0, energies.shape[1] * energies.square().sum(1) / total, 0.0)
    return energies @ energies.T, focus


def _neuron_energies(task_vectors: Tensor, base: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of NeuroMerging's coordinates: all energy of matrices, that along the base's rows, that outvoted; [n] each."""
    total = torch.zeros(4, len(task_vectors), dtype=torch.float64)
    rows = _rows_of(task_vectors)
    if rows is not None:
        neurons = base.reshape(rows.shape[1:])
        step = max(1, _BLOCK // (len(rows) * rows.shape[2]))
        for some, own in zip(rows.split(step, dim=1), neurons.split(step), strict=True):
            total += merge_neurons(some, own, energy=1.0).energies
    return total[0], total[1], total[2]


def _reach(task_vectors: Tensor, merged: Tensor) -> tuple[Tensor, ...]:
    """‖Δ τ_tᵀ‖² and ⟨Δ τ_tᵀ, τ_t τ_tᵀ⟩, [n] each."""
    count, rows, changes = len(task_vectors), _matrices(task_vectors), _matrices(merged)
    if rows is None or changes is None:
        return _nothing((count,), (count,))
    reached = [_of_task(changes, t) @ row.T for t, row in enumerate(rows)]
    own = [(one * (row @ row.T)).sum() for one, row in zip(reached, rows, strict=True)]
    return torch.stack([one.square().sum() for one in reached]), torch.stack(own)


def _row_reach(task_vectors: Tensor, merged: Tensor) -> Tensor:
    """Σ_r ‖τ_t,r‖² ⟨Δ_r, τ_t,r⟩, [n]."""
    rows, changes = _rows_of(task_vectors), _rows_of(merged)
    if rows is None or changes is None:
        return _nothing((len(task_vectors),))[0]
    sums = []
    for t, row in enumerate(rows):
        wide = row.double()
        sums.append((wide.square().sum(1) * (wide * _of_task(changes, t).double()).sum(1)).sum())
    return torch.stack(sums)


def _of_task(changes: Tensor, task: int) -> Tensor:
    """The Δ of a task, or the one that all share."""
    return changes[task if len(changes) > 1 else 0]


def _signal(task_vectors: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
    """One of a matrix, [1]; how much of what the expert makes of inputs like its own is its task vector's, [n]."""
    rows = _matrices(task_vectors)
    if rows is None:
        return _nothing((1,), (len(task_vectors),))
    outputs = _outputs(rows, base)
    own = torch.stack([(row @ row.T).norm() for row in rows])
    return torch.ones(1, dtype=torch.float64), _at_most(own, outputs)


def _push(task_vectors: Tensor, merged: Tensor, base: Tensor) -> Tensor:
    """How far the merge moves what the expert makes of inputs like its own, [n]."""
    rows, changes = _matrices(task_vectors), _matrices(merged)
    if rows is None or changes is None:
        return _nothing((len(task_vectors),))[0]
    moved = [((_of_task(changes, t) - row) @ row.T).norm() for t, row in enumerate(rows)]
    return _at_most(torch.stack(moved), _outputs(rows, base))


def _outputs(rows: Tensor, base: Tensor) -> Tensor:
    """‖(θ_0 + τ_t) τ_tᵀ‖, [n]."""
    start = _matrices(base[None])
    assert start is not None
    return torch.stack([((start[0] + row) @ row.T).norm() for row in rows])


def _at_most(part: Tensor, whole: Tensor) -> Tensor:
    """The quotient, at most 4; 0 where nothing is divided by nothing."""
    return torch.where(whole > 0, part / whole, 4.0 * (part > 0)).clamp(max=4.0)
