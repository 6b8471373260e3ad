"""NuSLERP: spherical interpolation by tensor, row or column, of weights or of task vectors."""

from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from merge_lib.ops.sparsify import as_rows
from merge_lib.ops.sphere import Centre, centred, placed
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import Fraction
from merge_lib.working_set import WorkingSet

Along = Literal["tensor", "row", "column"]
_STRAIGHT = 1e-8


@merge_method(
    name="nuslerp",
    title="NuSLERP",
    paper="https://dl.acm.org/doi/10.1145/325334.325242",
    needs_base=False,
    order_free=False,
    works_on="tensor",
    working_set=WorkingSet(stacks=0.0, tensors=7.5),
)
def nuslerp(
    experts: Float[Tensor, " n *shape"],
    base: Float[Tensor, " *shape"] | None,
    *,
    position: Fraction = 0.5,
    along: Along = "tensor",
    centre: Centre = "zero",
    trail: Trail = NO_TRAIL,
) -> Float[Tensor, " *shape"]:
    """The point on the arc from the first checkpoint to the second, with an angle for each tensor, row or column.

    θ* = sin((1−α)Ω)/sin Ω · θ_1 + sin(αΩ)/sin Ω · θ_2, with α the position and Ω the angle; (1−α) θ_1 + α θ_2
    where sin Ω < 1e-8 or one is zero. Seen from the base, the same of task vectors. More than two are folded
    from the left: ((θ_1, θ_2), θ_3), …, each step at the same position.

    Scope: per tensor; per row or column with `along`. A row is what makes one output, the first axis against all
        others; a column is one input of all outputs. A vector is one row and has no columns.
    Variant: un-normalised tensors. The method `slerp` is straight from |cos Ω| = 0.9995 on; this one follows the
        arc to the end, with Ω = 2 atan2(‖u − v‖, ‖u + v‖) of the unit vectors in float64. mergekit's weights
        w_1 and w_2 are the position w_2 / (w_1 + w_2).
    Differs from the paper: it interpolates unit quaternions.
    Reference: Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985, section 3.3; the rest is
        mergekit's.

    Args:
        experts: [n, *shape], floating; one row per checkpoint, in spec order.
        base: [*shape], or None.
        position: where on the arc, in [0, 1]; 0 is the first checkpoint, 1 the second.
        along: what has an angle of its own.
        centre: where the arcs' centre is: "zero", or "base" for task vectors.
        trail: told what each checkpoint weighs in the end, on average over rows or columns.

    Returns:
        [*shape], dtype of experts.

    Raises:
        MethodInputError: the base is to be the centre, but there is none.
    """
    rows = centred(experts, base, centre)
    merged, weights = rows[0].clone(), [torch.ones(1, 1, dtype=torch.float64)]
    for row in rows[1:]:
        merged, left, right = _between(merged, row, position, along)
        weights = [*(left * weight for weight in weights), right]
    trail.note(
        "weight",
        lambda: torch.stack([weight.mean() if weight.numel() else weight.sum() for weight in weights]),
    )
    return placed(merged, base, centre)


def _between(
    start: Float[Tensor, " *shape"], end: Float[Tensor, " *shape"], position: float, along: Along
) -> tuple[Float[Tensor, " *shape"], Tensor, Tensor]:
    """One step, and the float64 weights of both ends, [rows or 1, columns or 1]."""
    whole = along == "tensor" or start.ndim < 2
    first, second = (row.reshape(1, row.numel()) if whole else as_rows(row) for row in (start, end))
    angle = _angles(first, second, dim=0 if along == "column" and not whole else 1)
    sine = torch.sin(angle)
    straight = sine < _STRAIGHT
    divisor = torch.where(straight, 1.0, sine)
    left = torch.where(straight, 1 - position, torch.sin((1 - position) * angle) / divisor)
    right = torch.where(straight, position, torch.sin(position * angle) / divisor)
    merged = (left.to(start.dtype) * first + right.to(start.dtype) * second).reshape(start.shape)
    return merged, left, right


def _angles(
    first: Float[Tensor, " rows length"], second: Float[Tensor, " rows length"], dim: int
) -> Float64[Tensor, " rows_or_1 columns_or_1"]:
    """Between vectors that lie along `dim`; exact near 0 and π, too; 0 where one is zero."""
    lengths = [row.double().norm(dim=dim, keepdim=True) for row in (first, second)]
    units = [
        row / length.where(length > 0, 1.0) for row, length in zip((first, second), lengths, strict=True)
    ]
    apart, together = (
        (units[0] - units[1]).norm(dim=dim, keepdim=True),
        (units[0] + units[1]).norm(dim=dim, keepdim=True),
    )
    return (2 * torch.atan2(apart, together)).where((lengths[0] > 0) & (lengths[1] > 0), 0.0)
