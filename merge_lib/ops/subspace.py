"""Singular vectors, polar factors and pseudo-inverses, batched over leading axes.

Float32 matrices are decomposed through their Gram matrix in float64: its eigenvalues are the squared singular
values, so that a singular value σ is known to about 1e-16 · σ_1² / σ, and its vectors to 1e-16 · (σ_1 / σ)²,
divided by the gap. A singular value decomposition in float32 knows σ to about 1e-7 · σ_1: the Gram route is the
more exact one down to 1e-9 · σ_1, far below any cut-off here, and faster the longer the matrix is. Float64
matrices take the singular value decomposition itself.

A direction is null where its singular value is at most a stated cut-off times the largest; null directions are
left out. Signs and, where singular values are equal, rotations of singular vectors are arbitrary, but cancel in
everything that pairs left with right vectors, such as a polar factor; only the null space would not cancel.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_ROWS = 4096  # of a matrix in float64 at once


@dataclass(frozen=True)
class Factors:
    """M = left · diag(values) · right, in float64; values from the largest."""

    left: Float[Tensor, "*batch m r"]
    values: Float[Tensor, "*batch r"]
    right: Float[Tensor, "*batch r n"]

    def first(self, rank: int) -> "Factors":
        """The first triplets."""
        return Factors(self.left[..., :rank], self.values[..., :rank], self.right[..., :rank, :])

    def above(self, level: Float[Tensor, "*batch"]) -> "Factors":
        """The same with zeros for all triplets whose value is not above the level."""
        kept = self.values > level[..., None]
        return Factors(self.left * kept[..., None, :], self.values * kept, self.right * kept[..., None])

    def product(self) -> Float[Tensor, "*batch m n"]:
        """The matrix again."""
        return (self.left * self.values[..., None, :]) @ self.right


def goes_by_gram(dtype: torch.dtype) -> bool:
    """Whether matrices that were computed from data of this dtype are decomposed through Gram matrices."""
    return dtype != torch.float64


def thin_svd(
    matrices: Float[Tensor, "*batch m n"], rank: int | None = None, *, by_gram: bool | None = None
) -> Factors:
    """The singular value decomposition, or its first `rank` triplets.

    Args:
        matrices: [*batch, m, n], float32 or float64.
        rank: how many triplets; all min(m, n) where not given.
        by_gram: the route; where not given, as the dtype demands.

    Returns:
        Factors; left and right vectors of singular values that are exactly 0 may be 0.
    """
    rank = min(matrices.shape[-2:]) if rank is None else rank
    if goes_by_gram(matrices.dtype) if by_gram is None else by_gram:
        return gram_factors(matrices, rank)
    return svd_factors(matrices).first(rank)


def svd_factors(matrices: Float[Tensor, "*batch m n"]) -> Factors:
    """The decomposition by LAPACK's route, in float64."""
    return Factors(*torch.linalg.svd(matrices.double(), full_matrices=False))


def gram_factors(matrices: Float[Tensor, "*batch m n"], rank: int) -> Factors:
    """The first triplets, from the eigenvectors of the smaller Gram matrix."""
    if matrices.shape[-2] < matrices.shape[-1]:
        turned = gram_factors(matrices.mT, rank)
        return Factors(turned.right.mT, turned.values, turned.left.mT)
    squares, vectors = torch.linalg.eigh(gram(matrices))  # from the smallest
    values = squares.flip(-1)[..., :rank].clamp(min=0).sqrt()
    right = vectors.flip(-1)[..., :rank]
    inverse = torch.where(values > 0, 1 / values, 0.0)
    return Factors(matrices.double() @ (right * inverse[..., None, :]), values, right.mT)


def gram(matrices: Float[Tensor, "*batch m n"]) -> Float[Tensor, "*batch n n"]:
    """MᵀM in float64, summed over blocks of rows so that no whole copy is made."""
    total = matrices.new_zeros(*matrices.shape[:-2], *matrices.shape[-1:] * 2, dtype=torch.float64)
    for block in matrices.split(_ROWS, dim=-2):
        wide = block.double()
        total += wide.mT @ wide
    return total


def polar_factor(
    matrices: Float[Tensor, "*batch m n"], cut_off: float, *, by_gram: bool | None = None
) -> Float[Tensor, "*batch m n"]:
    """P Qᵀ of M = P diag(σ) Qᵀ, in float64: the nearest matrix with orthonormal columns, or rows if it is wide.

    On the null space, where P and Q are arbitrary, it is 0: a partial isometry.
    """
    factors = without_null(thin_svd(matrices, by_gram=by_gram), cut_off)
    return factors.left @ factors.right


def without_null(factors: Factors, cut_off: float) -> Factors:
    """Zeros for all triplets whose value is at most `cut_off` times the largest."""
    return factors.above(cut_off * factors.values.amax(-1)) if factors.values.numel() else factors


def whitened_product(
    left: Float[Tensor, "*batch m k"],
    values: Float[Tensor, "*batch k"],
    right: Float[Tensor, "*batch k n"],
    cut_off: float,
    *,
    by_gram: bool,
) -> Float[Tensor, "*batch m n"]:
    """Left · diag(values) · right after left and right are each replaced by their polar factor, in float64."""
    left, right = (polar_factor(side, cut_off, by_gram=by_gram) for side in (left, right))
    return (left * values[..., None, :]) @ right


def pseudo_inverse(matrix: Float[Tensor, "n n"], cut_off: float) -> Float[Tensor, "n n"]:
    """The pseudo-inverse of a symmetric matrix without negative eigenvalues, in float64.

    Eigenvalues of at most `cut_off` times the largest count as 0. Where the factor L of Cholesky proves that
    there are none, as λ_min ≥ 1 / ‖L⁻¹‖² and λ_max ≤ trace, the inverse is L⁻ᵀ L⁻¹, which is faster than
    eigenvectors by a factor of about five.
    """
    matrix = matrix.double()
    lower, failed = torch.linalg.cholesky_ex(matrix)
    if not failed:
        inverse = torch.linalg.solve_triangular(
            lower, torch.eye(len(matrix), dtype=matrix.dtype), upper=False
        )
        if cut_off * matrix.trace() * inverse.square().sum() < 1:
            return inverse.mT @ inverse
    return eigen_pseudo_inverse(matrix, cut_off)


def eigen_pseudo_inverse(matrix: Float[Tensor, "n n"], cut_off: float) -> Float[Tensor, "n n"]:
    """The same by eigenvectors."""
    values, vectors = torch.linalg.eigh(matrix.double())
    inverse = torch.where(values > cut_off * values.amax(), 1 / values, 0.0)
    return (vectors * inverse) @ vectors.mT
