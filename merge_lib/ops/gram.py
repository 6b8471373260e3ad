"""Inner products of all pairs of rows, in float64 and in a stated order.

Products and sums are the matrix product's: on one core, as merges that are not by entry run, they are the same every
time.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

_COLUMNS = 1 << 16  # of a piece that is widened at a time


def inner_products(rows: Float[Tensor, " n *shape"]) -> Float64[Tensor, " n n"]:
    """Of whole tensors; pieces of 65,536 entries, added from the first to the last."""
    flat = rows.reshape(len(rows), rows[0].numel())
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for start in range(0, flat.shape[1], _COLUMNS):
        piece = flat[:, start : start + _COLUMNS].double()
        total += piece @ piece.T
    return total


def inner_products_by_row(matrices: Float[Tensor, " n rows length"]) -> Float64[Tensor, " rows n n"]:
    """Of each row with the same row of the other matrices; as many rows at a time as 65,536 entries hold."""
    _, count, length = matrices.shape
    step = max(1, _COLUMNS // max(length, 1))
    pieces = [matrices[:, start : start + step].transpose(0, 1).double() for start in range(0, count, step)]
    products = [piece @ piece.transpose(1, 2) for piece in pieces]
    return (
        torch.cat(products) if products else torch.zeros(0, len(matrices), len(matrices), dtype=torch.float64)
    )


def cosines(products: Float64[Tensor, " *batch n n"]) -> Float64[Tensor, " *batch n n"]:
    """Of the angles between rows, in [−1, 1]; 0 with a zero row, but for 1 on the diagonal."""
    lengths = products.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    norms = lengths[..., :, None] * lengths[..., None, :]
    found = (products / torch.where(norms > 0, norms, 1.0)).clamp(-1, 1)
    return found.where(~torch.eye(products.shape[-1], dtype=torch.bool), 1.0)
