"""What part of each task vector is kept, in entries and in energy; for audits, not for merging."""

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor


def shares(masks: Bool[Tensor, " n *shape"]) -> Float64[Tensor, " n"]:
    """The share of true entries, row by row; 0 of a tensor without entries."""
    flat = masks.reshape(len(masks), masks[0].numel())
    return flat.double().sum(dim=1) / max(flat.shape[1], 1)


def energy_removed(
    kept: Float[Tensor, " n *shape"], task_vectors: Float[Tensor, " n *shape"]
) -> Float64[Tensor, " n"]:
    """The share of each task vector's squared norm that is no longer there; 0 of a zero one."""
    before, after = (
        rows.reshape(len(rows), rows[0].numel()).double().square().sum(1) for rows in (task_vectors, kept)
    )
    return (before - after) / before.where(before > 0, 1.0)


def share_of_mass(
    part: Float[Tensor, " n *shape"], whole: Float[Tensor, " n *shape"], power: int = 2
) -> Float[Tensor, " n"]:
    """Σ|part|^p / Σ|whole|^p of each expert, in float64; 0 where there is nothing."""
    sums = [values.double().abs().pow(power).reshape(len(values), -1).sum(dim=1) for values in (part, whole)]
    return ratio(*sums)


def ratio(part: Float[Tensor, " *shape"], whole: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
    """The quotient, or 0 where the whole is 0."""
    return torch.where(whole > 0, part / whole, 0.0)
