"""Spherical interpolation of two checkpoints."""

from math import sqrt

from jaxtyping import Float
from torch import Tensor

from merge_lib.methods.linear import folded_weights, interpolate
from merge_lib.ops.arcs import arc_weights
from merge_lib.ops.sums import inner_product
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import Fraction
from merge_lib.working_set import WorkingSet

_NEARLY_PARALLEL = 0.9995


@merge_method(
    name="slerp",
    title="SLERP",
    paper="https://dl.acm.org/doi/10.1145/325334.325242",
    needs_base=False,
    order_free=False,
    works_on="tensor",
    working_set=WorkingSet(stacks=0.0, tensors=7.5),
)
def slerp(
    experts: Float[Tensor, " n *shape"], *, position: Fraction = 0.5, trail: Trail = NO_TRAIL
) -> Float[Tensor, " *shape"]:
    """The point on the arc from the first checkpoint to the second, tensor by tensor.

    θ* = sin((1−α)Ω)/sin Ω · θ_1 + sin(αΩ)/sin Ω · θ_2, with α the position and Ω the angle between the
    flattened tensors. More than two are folded from the left: ((θ_1, θ_2), θ_3), …, each step at the
    same position.

    Scope: per tensor.
    Variant: un-normalised tensors, as in mergekit; Ω is that of the unit vectors. Where |cos Ω| > 0.9995, or
        a tensor is zero, the interpolation is linear. Positions 0 and 1 give the ends bit for bit.
    Differs from the paper: it interpolates unit quaternions.
    Reference: Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985, section 3.3.

    Args:
        experts: [n, *shape], floating; one row per checkpoint, in spec order.
        position: where on the arc, in [0, 1]; 0 is the first checkpoint, 1 the second.
        trail: told what each checkpoint weighs in the end.

    Returns:
        [*shape], dtype of experts.
    """
    merged, steps = experts[0], []
    for expert in experts[1:]:
        first, second = _weights_on_arc(merged, expert, position)
        steps.append((first, second))
        is_straight = (first, second) == (1 - position, position)
        merged = (
            interpolate(merged, expert, position=position)
            if is_straight
            else first * merged + second * expert
        )
    trail.note("weight", lambda: folded_weights(steps))
    return merged.clone()


def _weights_on_arc(
    start: Float[Tensor, " *shape"], end: Float[Tensor, " *shape"], position: float
) -> tuple[float, float]:
    """Of both ends; 1 − position and position where the line is straight."""
    norms = sqrt(inner_product(start, start)) * sqrt(inner_product(end, end))
    cosine = inner_product(start, end) / norms if norms > 0 else 1.0
    if position in (0, 1) or abs(cosine) > _NEARLY_PARALLEL:
        return 1 - position, position
    return arc_weights(cosine, position)
