"""Least squares of the smallest norm, through the smaller of the two Gram matrices."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Fit:
    """The solution, and the space of inputs that the equations speak of.

    Attributes:
        solution: [inputs, outputs]; nothing of it is orthogonal to the basis.
        basis: [inputs, rank], orthonormal.
    """

    solution: Float[Tensor, " inputs outputs"]
    basis: Float[Tensor, " inputs _"]


def smallest_fit(
    rows: Float[Tensor, " rows inputs"], targets: Float[Tensor, " rows outputs"], *, cutoff: float
) -> Fit:
    """F⁺Y, the pseudo-inverse of the rows times the targets.

    Args:
        rows: F, float64.
        targets: Y, float64.
        cutoff: singular values of F below this share of the largest count as zero; the Gram matrix
            tells none below 1e-7 from zero.

    Returns:
        The solution of F·T = Y with the least error, and of those with the least norm.
    """
    wide = len(rows) < rows.shape[1]
    values, vectors = torch.linalg.eigh(rows @ rows.T if wide else rows.T @ rows)
    largest = values[-1] if len(values) else 0.0
    chosen = (values > cutoff**2 * largest) & (values > 0)
    vectors, values = vectors[:, chosen], values[chosen]
    if wide:
        basis = rows.T @ (vectors / values.sqrt())  # V = FᵀUΣ⁻¹
        return Fit(basis @ ((vectors.T @ targets) / values.sqrt()[:, None]), basis)
    return Fit(vectors @ ((vectors.T @ (rows.T @ targets)) / values[:, None]), vectors)
