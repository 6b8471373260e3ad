"""Sums in a stated order, so that neither threads nor pieces can change a bit of them."""

import numpy as np
from jaxtyping import Float
from torch import Tensor

_BLOCK = 1 << 20


def sum_rows(rows: Float[Tensor, " n *shape"]) -> Float[Tensor, " *shape"]:
    """The sum over experts, added from the first to the last."""
    total = rows[0].clone()
    for row in rows[1:]:
        total += row
    return total


def inner_product(left: Float[Tensor, " *shape"], right: Float[Tensor, " *shape"]) -> float:
    """The sum of products over all elements, in float64, by numpy's single-threaded pairwise sum."""
    a, b = left.reshape(-1).numpy(), right.reshape(-1).numpy()
    total = 0.0
    for start in range(0, a.size, _BLOCK):
        piece = slice(start, start + _BLOCK)
        total += float(np.sum(a[piece].astype(np.float64) * b[piece].astype(np.float64)))
    return total
