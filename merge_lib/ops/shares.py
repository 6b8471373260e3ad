"""What part of each task vector is kept, in entries and in energy; for audits, not for merging."""

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
