"""Linear interpolation of two checkpoints."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import Fraction
from merge_lib.working_set import WorkingSet


@merge_method(
    name="linear",
    title="Linear interpolation",
    paper="https://arxiv.org/abs/2109.01903",
    needs_base=False,
    order_free=False,
    working_set=WorkingSet(stacks=0.0, tensors=4.2),
)
def linear(
    experts: Float[Tensor, " n *shape"], *, position: Fraction = 0.5, trail: Trail = NO_TRAIL
) -> Float[Tensor, " *shape"]:
    """The point on the straight line from the first checkpoint to the second.

    θ* = (1 − α)·θ_1 + α·θ_2, with α the position. More than two are folded from the left:
    ((θ_1, θ_2), θ_3), …, each step at the same position, which is an exponential moving average.

    Scope: per tensor.
    Variant: positions 0 and 1 give the ends bit for bit; one checkpoint is returned as it is.
    Differs from the paper: nothing for two; the paper has no fold.
    Reference: Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022, arXiv:2109.01903,
        section 3.

    Args:
        experts: [n, *shape], floating; one row per checkpoint, in spec order.
        position: where on the line, in [0, 1]; 0 is the first checkpoint, 1 the second.
        trail: told what each checkpoint weighs in the end.

    Returns:
        [*shape], dtype of experts.
    """
    trail.note("weight", lambda: folded_weights([(1 - position, position)] * (len(experts) - 1)))
    merged = experts[0]
    for expert in experts[1:]:
        merged = interpolate(merged, expert, position=position)
    return merged.clone()


def folded_weights(steps: Sequence[tuple[float, float]]) -> Float64[Tensor, " n"]:
    """What each checkpoint weighs after a fold from the left, from the two weights of each step."""
    weights = [1.0]
    for first, second in steps:
        weights = [*(first * weight for weight in weights), second]
    return torch.tensor(weights, dtype=torch.float64)


def interpolate(
    start: Float[Tensor, " *shape"], end: Float[Tensor, " *shape"], *, position: float
) -> Float[Tensor, " *shape"]:
    """One step; the ends are exact, negative zeros included."""
    if position == 0:
        return start
    if position == 1:
        return end
    return (1 - position) * start + position * end
