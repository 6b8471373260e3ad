"""Setting entries of task vectors to zero."""

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from merge_lib.ops.chance import TensorGenerator
from merge_lib.ops.keys import DRAWS
from merge_lib.ops.sums import per_row


def keep_large(
    task_vectors: Float[Tensor, " n *shape"], thresholds: Float[Tensor, " n"]
) -> Float[Tensor, " n *shape"]:
    """Entries whose magnitude reaches their expert's threshold; the others are zero."""
    return task_vectors.abs().ge_(per_row(thresholds, task_vectors)).mul_(task_vectors)


def drop_at_random(
    task_vectors: Float[Tensor, " n *shape"], density: float, generator: TensorGenerator
) -> Float[Tensor, " n *shape"]:
    """Each entry is kept with that probability and divided by it, or becomes zero."""
    kept = [generator.keep(expert, tuple(row.shape), density) for expert, row in enumerate(task_vectors)]
    return task_vectors / density * torch.stack(kept)


def as_rows(tensor: Float[Tensor, " *shape"]) -> Float[Tensor, " rows length"]:
    """What makes one output each: the first axis against all others; a vector and a scalar are one row."""
    return tensor.reshape(1, tensor.numel()) if tensor.ndim < 2 else tensor.flatten(1)


def magnitude_ranks(rows: Float[Tensor, " rows length"]) -> Int64[Tensor, " rows length"]:
    """The place of each magnitude in its row, 0 for the smallest; of equal ones the first has the lower place."""
    order = _ascending(rows.abs())
    places = torch.arange(rows.shape[1]).expand_as(order).contiguous()
    return torch.empty_like(order).scatter_(1, order, places)


def _ascending(magnitudes: Float[Tensor, " rows length"]) -> Int64[Tensor, " rows length"]:
    """Where the smallest of each row is, then the next; of equal ones the first comes first.

    The bits of a float32 are sorted with its place behind them, in about half the time of a stable `argsort`.
    """
    if magnitudes.dtype != torch.float32:
        return magnitudes.argsort(dim=1, stable=True)
    keys = magnitudes.view(torch.int32).long().bitwise_left_shift_(32)
    keys.bitwise_or_(torch.arange(magnitudes.shape[1]))
    keys.numpy().sort(axis=1)  # in place
    return keys.bitwise_and_((1 << 32) - 1)


def keep_probabilities(
    rows: Float[Tensor, " rows length"], density: float, epsilon: float
) -> Float64[Tensor, " rows length"]:
    """From density − epsilon for the smallest magnitude of a row to density + epsilon for the largest.

    They grow by equal steps with the rank; the only entry of a row of one has the density.
    """
    length = rows.shape[1]
    if length <= 1:
        return torch.full(rows.shape, density, dtype=torch.float64)
    share = magnitude_ranks(rows).double() / (length - 1)
    return density + epsilon * (2 * share - 1)


def draw(
    probabilities: Float64[Tensor, " rows length"], generator: TensorGenerator, expert: int
) -> Bool[Tensor, " rows length"]:
    """A mask, true with those probabilities."""
    draws = generator.bits(expert, probabilities.numel()).astype("float64")
    return torch.from_numpy(draws).reshape(probabilities.shape) < probabilities * DRAWS
