"""Sums in a stated order, so that neither threads nor pieces can change a bit of them.

Float64 numbers are added within tiles of 1024 by halving: the second half to the first, again and again. The sums
of the tiles are added exactly and rounded once. The kernels do the same.
"""

from fractions import Fraction
from math import fsum

import numpy as np
from jaxtyping import Float
from torch import Tensor

_TILE = 1024
_ROWS = 1 << 16  # elements


def rows_size(length: int) -> int:
    """Elements of a piece of whole rows, where a sum goes piece by piece: as many rows as 65,536 elements hold."""
    return max(1, _ROWS // length) * length


def sum_rows(rows: Float[Tensor, " n *shape"]) -> Float[Tensor, " *shape"]:
    """The sum over experts, added from the first to the last."""
    total = rows[0].clone()
    for row in rows[1:]:
        total += row
    return total


def mean_rows(rows: Float[Tensor, " n *shape"]) -> Float[Tensor, " *shape"]:
    """The mean over experts."""
    return sum_rows(rows) / len(rows)


def per_row(values: Float[Tensor, " n"], rows: Float[Tensor, " n *shape"]) -> Float[Tensor, " n *ones"]:
    """A number for each expert with axes of one entry, so that it meets all entries of the expert's row."""
    return values.reshape(-1, *[1] * (rows.ndim - 1))


def inner_product(left: Float[Tensor, " *shape"], right: Float[Tensor, " *shape"]) -> float:
    """The sum of products over all elements, in float64."""
    return tiled_sum(left.reshape(-1).double().numpy() * right.reshape(-1).double().numpy())


def magnitude_sum(values: Float[Tensor, " *shape"], *, block: int = 0) -> float:
    """The sum of magnitudes, in float64; tiles begin anew at every `block` elements, where one is given."""
    flat = values.reshape(-1).double().abs().numpy()
    size = block or max(flat.size, 1)
    return fsum(part for start in range(0, flat.size, size) for part in _tiles(flat[start : start + size]))


def exact_magnitude_sum(values: Float[Tensor, " *shape"]) -> Fraction:
    """The sum of magnitudes, tiles added without rounding.

    Such sums of pieces that begin at multiples of 1024 elements add up to that of the whole, in any order.
    """
    tiles = _tiles(values.reshape(-1).double().abs().numpy()).tolist()
    total = Fraction(0)
    while part := fsum(tiles):  # what is left after each rounding, until nothing is
        total += Fraction(part)
        tiles.append(-part)
    return total


def tiled_sum(values: np.ndarray) -> float:
    """The sum of float64 numbers, [count]."""
    return fsum(_tiles(values))


def _tiles(values: np.ndarray) -> np.ndarray:
    """The sum of each tile, [⌈count / 1024⌉]."""
    tiles = np.zeros((-(-values.size // _TILE), _TILE))
    tiles.reshape(-1)[: values.size] = values
    width = _TILE
    while width > 1:
        width //= 2
        tiles = tiles[:, :width] + tiles[:, width : 2 * width]
    return tiles[:, 0]
