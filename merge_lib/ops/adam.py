"""Adam, for the few methods that minimise something over a merged tensor."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

_FIRST, _SECOND, _SMALL = 0.9, 0.999, 1e-8  # the paper's β_1, β_2 and ε


def minimise(
    start: Float[Tensor, " *shape"],
    gradient: Callable[[Tensor], Tensor],
    *,
    steps: int,
    learning_rate: float,
) -> Float[Tensor, " *shape"]:
    """Where Adam is after so many steps, without weight decay.

    Reference: Kingma & Ba, "Adam", ICLR 2015, arXiv:1412.6980, algorithm 1.

    Args:
        start: [*shape]; not written to.
        gradient: of the objective at a point, [*shape] each; may not keep the point, which is moved in place.
        steps: how many.
        learning_rate: the size of a step at most, nearly.

    Returns:
        [*shape], dtype of start.
    """
    point, mean, square = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    for step in range(1, steps + 1):
        slope = gradient(point)
        mean.lerp_(slope, 1 - _FIRST)
        square.mul_(_SECOND).addcmul_(slope, slope, value=1 - _SECOND)
        root = square.sqrt().div_((1 - _SECOND**step) ** 0.5).add_(_SMALL)
        point.addcdiv_(mean, root, value=-learning_rate / (1 - _FIRST**step))
    return point
