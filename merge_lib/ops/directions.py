"""Leading eigenvectors of a symmetric matrix that is given as a weighted sum of few outer products."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

_ROUNDING = 1e-12  # of all that was added up: what is smaller may be rounding
_TIED = 1e-9  # relative; scores that are nearer than this are equal


def largest_positive(scores: Float[Tensor, " size"], count: int, noise: float = 0.0) -> Bool[Tensor, " size"]:
    """Which scores are among the `count` largest, and above the noise.

    Equal scores stay together: where there is no room for all of them, none is taken, so that neither order nor
    rounding chooses among them.
    """
    least = noise
    if count < len(scores):
        first_out = scores.sort(descending=True).values[count].item()
        least = max(noise, first_out * (1 + _TIED))
    return scores > least


def leading_directions(
    rows: Float[Tensor, " rows size"], weights: Float[Tensor, " rows"], count: int
) -> tuple[Float[Tensor, " size rank"], Float[Tensor, " rank"]]:
    """Eigenvectors of Σ_r w_r z_r z_rᵀ with the largest eigenvalues, of which all are positive.

    With fewer rows than their length, of [size, size] nothing is made: with Zᵀ = QR the eigenvectors are Q times
    those of R diag(w) Rᵀ, [rows, rows].

    Args:
        rows: [rows, size], float64, the z_r.
        weights: [rows], of any sign.
        count: how many at most; equal eigenvalues are taken or left together.

    Returns:
        An orthonormal basis [size, rank] and the eigenvalues [rank], from the smallest to the largest.
    """
    noise = _ROUNDING * ((rows**2).sum(dim=1) * weights.abs()).sum().item()
    if len(rows) >= rows.shape[1]:
        values, vectors = torch.linalg.eigh(rows.T @ (weights[:, None] * rows))
        chosen = largest_positive(values, count, noise)
        return vectors[:, chosen], values[chosen]
    reflections, factors = torch.geqrf(rows.T)
    triangle = reflections[: len(rows)].triu()
    values, vectors = torch.linalg.eigh(triangle @ (weights[:, None] * triangle.T))
    chosen = largest_positive(values, count, noise)
    padded = pad(vectors[:, chosen], (0, 0, 0, rows.shape[1] - len(rows)))
    return torch.ormqr(reflections, factors, padded), values[chosen]
