"""Rows of weight matrices: their change along the base row and orthogonal to it, merged in coordinates.

A row's result has the same bytes whichever rows are beside it: products and eigenvectors are taken row by row on
matrices that begin at multiples of 64 bytes, and sums over experts go in order.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.ops.signs import elected_mean
from merge_lib.ops.sums import sum_rows

_ROUNDING = 1e-12  # of the longest task vector of a row: what is shorter is rounding
_SMALLEST = 1e-6  # of a row's largest singular value: what is smaller the Gram matrix does not tell from zero


@dataclass(frozen=True)
class MergedNeurons:
    """Merged rows, and what the merge left out.

    Attributes:
        parallel: [rows, d], float64, along the base rows.
        orthogonal: [rows, d], float64.
        energies: [4, n], squared norms of each expert's rows: of all; of what lies along the base rows; of the
            orthogonal coordinates whose sign lost; of those in directions that the energy rule left out.
    """

    parallel: Float[Tensor, " rows d"]
    orthogonal: Float[Tensor, " rows d"]
    energies: Float[Tensor, " 4 n"]


def merge_neurons(
    task_vectors: Float[Tensor, " n rows d"], base: Float[Tensor, " rows d"], *, energy: float
) -> MergedNeurons:
    """Each row's changes split along the base row, elected and averaged in coordinates.

    Parallel: the elected mean of ⟨τ_t, ŵ⟩, times ŵ = w/‖w‖. Orthogonal: with Q = UΣVᵀ the stacked orthogonal
    parts, V times the elected mean of each column of QV. U and Σ² come from QQᵀ, [n, n], in float64, and
    V m = Qᵀ U Σ⁻¹ m, so that nothing of size d is decomposed.

    Args:
        task_vectors: [n, rows, d].
        base: [rows, d]; along a row of zeros nothing is parallel.
        energy: share of Σ² that the leading directions of a row must reach; the others are left out.

    Returns:
        Both parts, and what was left out.
    """
    count, _, length = task_vectors.shape
    rows = _padded(task_vectors, base)  # [rows, n', d'], the base first
    products = _grams(rows)
    norm = products[:, 0, 0].sqrt()
    along = torch.where(norm[:, None] > 0, products[:, 0] / norm[:, None], 0.0)  # ⟨τ_t, ŵ⟩, [rows, n']
    unit = torch.where(norm[:, None] > 0, rows[:, 0] / norm[:, None], 0.0)
    along[:, 0] = 0.0
    lengths = products.diagonal(dim1=1, dim2=2)[:, 1:]
    rounding = _ROUNDING * lengths.amax(dim=1).sqrt()
    rows[:, 0] = 0.0
    for place in range(1, count + 1):
        rows[:, place] -= along[:, place, None] * unit
    merged, outvoted, cut = _merge_orthogonal(rows, rounding, energy, count)
    energies = torch.stack([lengths.T, (along**2).T[1:], outvoted[1:], cut[1:]])[:, :count].sum(dim=2)
    parallel = elected_mean(along.T, rounding)[:, None] * unit
    return MergedNeurons(parallel[:, :length], merged[:, :length], energies)


def _merge_orthogonal(
    rows: Float[Tensor, " rows n d"], rounding: Float[Tensor, " rows"], energy: float, count: int
) -> tuple[Float[Tensor, " rows d"], Float[Tensor, " n rows"], Float[Tensor, " n rows"]]:
    """The merged rows, and each expert's energy that was outvoted and cut; rows 1 to `count` are the experts'."""
    squares, vectors = torch.linalg.eigh(_grams(rows))
    squares, vectors = squares.flip(1).clamp(min=0.0), vectors.flip(2)  # descending
    values = squares.sqrt()
    floor = torch.maximum(_SMALLEST * values[:, 0], rounding)[:, None]
    leading = _leading(squares, energy)
    kept = (values > floor) & leading
    coordinates = (vectors * values[:, None]).movedim(1, 0)  # QV, [n, rows, r]
    means = elected_mean(coordinates, floor)
    shares = torch.where(kept, means / torch.where(kept, values, 1.0), 0.0)  # Σ⁻¹ m
    weights = sum_rows((vectors * shares[:, None]).movedim(2, 0))  # [rows, n]
    merged = torch.zeros_like(rows[:, 0])
    for place in range(1, count + 1):
        merged += weights[:, place, None] * rows[:, place]
    outvoted = (coordinates**2 * (kept & (coordinates * means <= 0))).sum(dim=2)
    return merged, outvoted, (coordinates**2 * ~leading).sum(dim=2)


def _padded(
    task_vectors: Float[Tensor, " n rows d"], base: Float[Tensor, " rows d"]
) -> Float[Tensor, " rows m e"]:
    """Base and task vectors row by row in float64; zeros make every matrix, and every product, whole 64 bytes."""
    count, size, length = task_vectors.shape
    rows = torch.zeros(size, -(-(count + 1) // 4) * 4, -(-length // 8) * 8, dtype=torch.float64)
    rows[:, 0, :length] = base
    rows[:, 1 : count + 1, :length] = task_vectors.movedim(0, 1)
    return rows


def _leading(squares: Float[Tensor, " rows r"], energy: float) -> Tensor:
    """The fewest leading directions that reach the share of a row's energy; all of them for a share of 1."""
    if energy == 1:
        return torch.ones_like(squares, dtype=torch.bool)
    before = squares.cumsum(dim=1) - squares
    return before < energy * squares.sum(dim=1, keepdim=True)


def _grams(rows: Float[Tensor, " rows n d"]) -> Float[Tensor, " rows n n"]:
    """The products of each matrix with its own transpose, one by one."""
    if rows.numel() == 0:
        return rows.new_zeros(rows.shape[0], rows.shape[1], rows.shape[1])
    return torch.stack([matrix @ matrix.T for matrix in rows])
