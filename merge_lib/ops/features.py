"""What a layer's inputs say of it: features paired with the rows of the weights that they multiply."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.errors import MethodInputError
from merge_lib.layers import Layer


@dataclass(frozen=True)
class Unit:
    """Rows of a weight tensor that see the same inputs, with a factor of each expert's Gram matrix.

    Attributes:
        rows: which entries of the first axis.
        factors: for each expert F_t, [r_t, in], with F_tᵀF_t = X_tᵀX_t / n_t and r_t ≤ in.
    """

    rows: slice
    factors: tuple[Float[Tensor, " _ inputs"], ...]


def check_values(values: Sequence[Tensor], experts: int, *, width: int, outputs: int = 1) -> None:
    """Refuse observations that do not belong to a tensor.

    Args:
        values: one for each expert.
        experts: how many there must be.
        width: of the last axis of each, [n_t, width]; of a convolution that may have groups, of a group's part of it.
        outputs: how many channels such a convolution has, which its groups share evenly; 1 where there are no groups.

    Raises:
        MethodInputError: names every one that is wrong.
    """
    problems = [f"there are {len(values)} for {experts} experts"] if len(values) != experts else []
    widths = set()
    for place, value in enumerate(values):
        if not _fits(value.shape, width, outputs):
            problems.append(
                f"that of expert {place} has the shape {tuple(value.shape)}, expected 2 axes, the last {width}"
            )
        elif not torch.isfinite(value).all():
            problems.append(f"that of expert {place} holds values that are NaN or infinite")
        else:
            widths.add(value.shape[-1])
    if len(widths) > 1:
        problems.append(
            f"they are {' and '.join(map(str, sorted(widths)))} wide, expected the same of all experts"
        )
    if problems:
        raise MethodInputError(
            f"Each expert needs its own finite observation of a layer; got otherwise: {'; '.join(problems)}. "
            "Collect the observations again, for these experts in this order."
        )


def weight_units(layer: Layer, features: Sequence[Tensor], experts: int, parts: int = 1) -> list[Unit]:
    """The units of a matrix or a kernel, once its features are seen to be its own.

    Raises:
        MethodInputError: there are too few or too many, or some belong to another layer.
    """
    outputs = layer.shape[0] if layer.role == "convolution" else 1
    check_values(features, experts, width=prod(layer.shape[1:]), outputs=outputs)
    return list(layer_units(layer.shape, features, parts))


def _fits(shape: torch.Size, width: int, outputs: int) -> bool:
    """Two axes, the last of them the width times a number of groups that share the outputs evenly."""
    if len(shape) != 2 or width == 0:
        return False
    groups, rest = divmod(shape[1], width)
    return groups > 0 and rest == 0 and outputs % groups == 0


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
