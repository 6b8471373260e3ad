"""Sketches: the range of a matrix of low rank, and, nearly, its first singular triplets.

Both multiply by a few columns of fixed signs instead of decomposing the whole matrix.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.ops.chance import TensorGenerator
from merge_lib.ops.subspace import Factors, thin_svd

_MORE = 10  # columns beside those that are wanted
_TURNS = 2  # products with MMᵀ


def sketched_svd(matrix: Float[Tensor, "m n"], rank: int) -> Factors:
    """The first triplets of Q QᵀM, where Q spans (MMᵀ)² M Ω and Ω has rank + 10 columns of fixed signs.

    The energy that the triplets hold is near the greatest possible, the more so the faster singular values
    fall; vectors of singular values that lie near the last one wanted are mixed with those after it. The signs
    are the same in every run: no seed changes the result. Where as many columns as min(m, n) would be needed,
    the decomposition is the exact one.

    Reference: Halko, Martinsson & Tropp, "Finding structure with randomness", SIAM Review 2011,
    arXiv:0909.4061, algorithms 4.4 and 5.1.

    Args:
        matrix: [m, n], float32 or float64.
        rank: how many triplets.

    Returns:
        Factors, in float64.
    """
    columns = rank + _MORE
    if columns >= min(matrix.shape):
        return thin_svd(matrix, rank)
    basis = _orthonormal(matrix @ _signs(matrix.shape[1], columns).to(matrix.dtype))
    for _ in range(_TURNS):
        basis = _orthonormal(matrix @ _orthonormal(matrix.mT @ basis))
    small = thin_svd(basis.mT @ matrix, rank)  # of [rank + 10, n]
    return Factors(basis.double() @ small.left, small.values, small.right)


def low_rank_range(matrix: Float[Tensor, "m n"], noise: float) -> Float[Tensor, "m k"] | None:
    """Orthonormal columns that span the matrix but for a rest of Frobenius norm at most `noise`, or None.

    None where that takes more than a quarter of min(m, n) columns: such a matrix is not of low rank.
    """
    wide = matrix.double()
    for part in (16, 4):
        basis = _orthonormal(wide @ _signs(matrix.shape[1], max(1, min(matrix.shape) // part)).double())
        if torch.linalg.matrix_norm(wide - basis @ (basis.mT @ wide)) <= noise:
            return basis
    return None


def _orthonormal(columns: Float[Tensor, "m k"]) -> Float[Tensor, "m k"]:
    return torch.linalg.qr(columns).Q


def _signs(rows: int, columns: int) -> Float[Tensor, "rows columns"]:
    """+1 and −1, from draws of their own."""
    words = TensorGenerator(0, "sketch").bits(0, -(-rows * columns // 32))
    signs = np.unpackbits(words.astype("<u4").view(np.uint8))[: rows * columns]
    return torch.from_numpy(signs.reshape(rows, columns) * 2.0 - 1.0)
