"""How mergekit thins a task vector: by magnitude, at random, by rank and chance, or at both ends.

Each function takes one task vector of one tensor and gives it back with entries set to 0. Among equal
magnitudes those with a smaller offset count as larger where the largest are kept, and as smaller where the
smallest are dropped: what a stable sort in the respective order gives. mergekit's sort is not stable: which
of the equal magnitudes it keeps depends on the processor.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from merge_lib.ops.chance import TensorGenerator
from merge_lib.ops.sparsify import draw, keep_probabilities
from merge_lib.ops.sums import magnitude_sum, rows_size


def keep_largest(task_vector: Float[Tensor, " *shape"], density: float) -> Float[Tensor, " *shape"]:
    """The ⌊density · entries⌋ entries of largest magnitude, at least one.

    Scope: per tensor.
    """
    if density >= 1:
        return task_vector
    entries = task_vector.numel()
    kept = max(1, int(density * entries))
    magnitudes = task_vector.abs().reshape(-1)
    mask = ~_lowest(magnitudes, entries - kept, first_of_equals=False)
    return task_vector * mask.reshape(task_vector.shape)


def drop_extremes(
    task_vector: Float[Tensor, " *shape"], density: float, gamma: float
) -> Float[Tensor, " *shape"]:
    """Without the ⌊gamma · entries⌋ largest magnitudes and so many of the smallest that density is kept.

    Where density and gamma together exceed 1, fewer of the largest are dropped.

    Scope: per tensor.
    """
    if density >= 1:
        return task_vector
    entries = task_vector.numel()
    largest = int(gamma * entries)
    smallest = entries - int(density * entries) - largest
    if smallest < 0:
        largest, smallest = largest + smallest, 0
    magnitudes = task_vector.abs().reshape(-1)
    low = _lowest(magnitudes, smallest, first_of_equals=True)
    up_to_high = _lowest(magnitudes, entries - largest, first_of_equals=True)
    return task_vector * (up_to_high & ~low).reshape(task_vector.shape)


def drop_random(
    task_vector: Float[Tensor, " *shape"], density: float, *, generator: TensorGenerator, expert: int
) -> Float[Tensor, " *shape"]:
    """Each entry kept with probability density.

    Scope: per tensor.
    """
    if density >= 1:
        return task_vector
    return task_vector * generator.keep(expert, tuple(task_vector.shape), density)


def drop_by_rank(
    task_vector: Float[Tensor, " *shape"],
    density: float,
    epsilon: float,
    *,
    generator: TensorGenerator,
    expert: int,
) -> Float[Tensor, " *shape"]:
    """Each entry kept with a probability that grows with the rank of its magnitude in its row.

    From density − epsilon for the smallest of the row to density + epsilon for the largest; a vector is one
    row, and the only entry of a row of one is kept with probability density.

    Scope: per row.
    """
    if density >= 1:
        return task_vector
    rows = task_vector.reshape(-1, task_vector.shape[-1]) if task_vector.ndim else task_vector.reshape(1, 1)
    kept = draw(keep_probabilities(rows, density, epsilon), generator, expert)
    return (rows * kept).reshape(task_vector.shape)


def restore_l1(
    sparse: Float[Tensor, " *shape"], full: Float[Tensor, " *shape"], *, by_rows: bool = False
) -> Float[Tensor, " *shape"]:
    """Scaled so that the magnitudes add up to what they did before entries were dropped.

    Sums are in float64, of tiles that begin anew with pieces of whole rows where `by_rows` is set.
    """
    length = full.shape[-1] if full.ndim else 1
    block = rows_size(max(length, 1)) if by_rows else 0
    before, after = (
        torch.tensor(magnitude_sum(values, block=block), dtype=full.dtype) for values in (full, sparse)
    )
    return sparse if after == 0 else sparse * (before / after)


def _lowest(
    magnitudes: Float[Tensor, " size"], count: int, *, first_of_equals: bool
) -> Bool[Tensor, " size"]:
    """True at the `count` smallest; of those that equal the largest of them, the first or the last."""
    if count <= 0:
        return torch.zeros_like(magnitudes, dtype=torch.bool)
    limit = magnitudes.float().kthvalue(count).values.to(magnitudes.dtype)
    below, equal = magnitudes < limit, magnitudes == limit
    wanted = count - int(below.sum())
    places = equal.nonzero()[:, 0]
    below[places[:wanted] if first_of_equals else places[places.numel() - wanted :]] = True
    return below
