"""Sums over models, as mergekit's arithmetic rounds them."""

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.ops.sums import sum_rows


def sum_wide(rows: Float[Tensor, " n *shape"]) -> Float[Tensor, " *shape"]:
    """The sum over models, added from the first to the last in float32 at least and rounded once."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    return sum_rows(rows.to(wide)).to(rows.dtype)
