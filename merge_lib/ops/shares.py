"""How much of each expert's tensor something is: what methods say of what they removed."""

import torch
from jaxtyping import Float
from torch import Tensor


def share(
    part: Float[Tensor, " n *shape"], whole: Float[Tensor, " n *shape"], power: int = 2
) -> Float[Tensor, " n"]:
    """Σ|part|^p / Σ|whole|^p of each expert, in float64; 0 where there is nothing."""
    sums = [values.double().abs().pow(power).reshape(len(values), -1).sum(dim=1) for values in (part, whole)]
    return ratio(*sums)


def ratio(part: Float[Tensor, " *shape"], whole: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
    """The quotient, or 0 where the whole is 0."""
    return torch.where(whole > 0, part / whole, 0.0)
