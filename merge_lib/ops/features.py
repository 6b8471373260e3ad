"""What a layer's inputs say of it: features paired with the rows of the weights that they multiply."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.errors import MethodInputError


@dataclass(frozen=True)
class Unit:
    """Rows of a weight tensor that see the same inputs, with a factor of each expert's Gram matrix.

    Attributes:
        rows: which entries of the first axis.
        factors: for each expert F_t, [r_t, in], with F_tᵀF_t = X_tᵀX_t / n_t and r_t ≤ in.
    """

    rows: slice
    factors: tuple[Float[Tensor, " _ inputs"], ...]


def check_values(values: Sequence[Tensor], experts: int, *, width: int, axes: int = 2) -> None:
    """Refuse observations that do not belong to a tensor.

    Args:
        values: one for each expert.
        experts: how many there must be.
        width: what the last axis must be a whole multiple of.
        axes: how many axes each must have.

    Raises:
        MethodInputError: names every one that is wrong.
    """
    problems = [f"there are {len(values)} for {experts} experts"] if len(values) != experts else []
    for place, value in enumerate(values):
        if value.ndim != axes or value.shape[-1] % max(width, 1) or 0 in value.shape[1:]:
            problems.append(
                f"that of expert {place} has the shape {tuple(value.shape)}, expected {axes} axes, the last {width}"
            )
        elif not torch.isfinite(value).all():
            problems.append(f"that of expert {place} holds values that are NaN or infinite")
    if problems:
        raise MethodInputError(
            f"Each expert needs its own finite observation of a layer; got otherwise: {'; '.join(problems)}. "
            "Collect the observations again, for these experts in this order."
        )


def layer_units(shape: Sequence[int], features: Sequence[Tensor], parts: int = 1) -> Iterator[Unit]:
    """The parts of a packed matrix, the groups of a grouped convolution, or the tensor as the only unit.

    Args:
        shape: of the weights, [out, in, …].
        features: for each expert [n_t, in·…]; of a grouped convolution the patches of all groups side by side.
        parts: how many matrices are packed along the first axis.

    Yields:
        Units whose factors are float64.
    """
    inputs = prod(shape[1:])
    groups = features[0].shape[1] // inputs
    count = parts if groups == 1 else groups
    size = shape[0] // count
    shared = tuple(map(gram_factor, features)) if groups == 1 else ()
    for place in range(count):
        columns = slice(place * inputs, (place + 1) * inputs)
        factors = shared or tuple(gram_factor(rows[:, columns]) for rows in features)
        yield Unit(slice(place * size, (place + 1) * size), factors)


def gram_factor(features: Float[Tensor, " n inputs"]) -> Float[Tensor, " _ inputs"]:
    """F with FᵀF = XᵀX/n, in float64: the features themselves, or the triangle of their QR where that is smaller."""
    rows = features.double() / max(len(features), 1) ** 0.5
    return torch.linalg.qr(rows, mode="r").R if len(rows) > rows.shape[1] else rows
