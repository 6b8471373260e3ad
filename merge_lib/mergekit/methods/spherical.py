"""Interpolation along great circles: of two models, or of many."""

from collections.abc import Sequence
from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.ops.arcs import arc_weights
from merge_lib.ops.sums import inner_product

_TINY = 1e-8
_PARALLEL = 0.9995


def slerp(
    experts: Float[Tensor, " 1 *shape"], base: Float[Tensor, " *shape"], *, t: float
) -> Float[Tensor, " *shape"]:
    """Between base and expert along the great circle of their directions.

    θ* = sin((1−t)Ω)/sin Ω · θ_0 + sin(tΩ)/sin Ω · θ_1, Ω the angle between the flattened tensors;
    (1−t) θ_0 + t θ_1 where |cos Ω| > 0.9995.

    Scope: per tensor.
    Variant: mergekit's; the tensors themselves are interpolated, not their directions. In float32.

    Args:
        experts: [1, *shape], floating.
        base: [*shape].
        t: 0 gives the base, 1 the expert.

    Returns:
        [*shape], dtype of experts.
    """
    start, end = base.float(), experts[0].float()
    norms = sqrt(inner_product(start, start)) * sqrt(inner_product(end, end))
    cosine = inner_product(start, end) / norms if norms > 0 else 1.0
    if abs(cosine) > _PARALLEL:
        return ((1 - t) * start + t * end).to(experts.dtype)
    first, second = arc_weights(cosine, t)
    return (first * start + second * end).to(experts.dtype)


def nuslerp(
    experts: Float[Tensor, " 2 *shape"],
    base: Float[Tensor, " *shape"] | None,
    *,
    weight: Sequence[float],
    flatten: bool,
    row_wise: bool,
) -> Float[Tensor, " *shape"]:
    """Between two models, or two task vectors, along great circles, by their weights.

    As `slerp` with t = w_1 / (w_0 + w_1), or ½ where the weights cancel; with a base, of the task vectors.

    Scope: per tensor; per row or column where `flatten` is off.
    Variant: mergekit's; straight lines only where sin Ω is below 1e-8.

    Args:
        experts: [2, *shape], floating.
        base: [*shape], or None.
        weight: one factor per model.
        flatten: one angle for the whole tensor.
        row_wise: an angle per column of a matrix instead of one per row, which is what mergekit's
            `nuslerp_row_wise` does; without effect where `flatten` is on.

    Returns:
        [*shape], dtype of experts.
    """
    whole = weight[0] + weight[1]
    t = 0.5 if abs(whole) < 1e-6 else weight[1] / whole
    first, second = (experts if base is None else experts - base).unbind()
    dim = 0 if row_wise and not flatten else -1
    if flatten:
        first, second = first.reshape(-1), second.reshape(-1)
    unit = [row / row.norm(dim=dim, keepdim=True).clamp(min=_TINY) for row in (first, second)]
    angle = torch.acos((unit[0] * unit[1]).sum(dim=dim, keepdim=True).clamp(-1, 1))
    sine = torch.sin(angle)
    curved = (torch.sin((1 - t) * angle) * first + torch.sin(t * angle) * second) / sine
    mixed = torch.where(sine.abs() < _TINY, (1 - t) * first + t * second, curved).reshape(experts.shape[1:])
    return mixed if base is None else base + mixed


def multislerp(
    experts: Float[Tensor, " n *shape"],
    base: Float[Tensor, " *shape"] | None,
    *,
    weight: Sequence[float],
    normalize_weights: bool,
) -> Float[Tensor, " *shape"]:
    """The weighted mean direction of the models, or of their task vectors, with the weighted mean length.

    θ* = Σ_i w_i ‖θ_i‖ · v / ‖v‖, v = Σ_i w_i θ_i / ‖θ_i‖.

    Scope: per tensor.
    Variant: mergekit's, which goes on from v/‖v‖ by the weighted sum of the tensors' projections to the
        tangent space there. That sum is 0 but for rounding; the step is kept because rounding shows in bf16.

    Args:
        experts: [n, *shape], floating.
        base: [*shape], or None.
        weight: one factor per model.
        normalize_weights: divide the weights by their sum.

    Returns:
        [*shape], dtype of experts.
    """
    rows = (experts if base is None else experts - base).reshape(len(experts), -1)
    weights = torch.tensor(weight, dtype=rows.dtype)
    if normalize_weights:
        weights = weights / weights.sum()
    lengths = rows.norm(dim=1)
    units = rows / (lengths[:, None] + _TINY)
    mean = (units * weights[:, None]).sum(dim=0)
    mean = mean / (mean.norm() + _TINY)
    tangents = units - (units * mean).sum(dim=1, keepdim=True) * mean
    step = (tangents * weights[:, None]).sum(dim=0)
    size = step.norm() + _TINY
    point = mean * torch.cos(size) + step * (torch.sin(size) / size)
    mixed = (point * (lengths * weights).sum()).reshape(experts.shape[1:])
    return mixed if base is None else base + mixed


def karcher(experts: Float[Tensor, " n *shape"], *, max_iter: int, tol: float) -> Float[Tensor, " *shape"]:
    """The point of the sphere nearest to the models' directions, with their mean length.

    u minimises Σ_i angle(u, θ_i)²;  θ* = mean_i ‖θ_i‖ · u.

    Scope: per tensor.
    Variant: mergekit's; found by steps u ← exp_u(mean_i log_u(θ_i/‖θ_i‖)) from the mean direction, until a
        step is shorter than `tol`. Tensors that are 0 are left out.
    Differs from mergekit: in float32 at least; in bf16 its steps never get shorter than `tol`.

    Args:
        experts: [n, *shape], floating.
        max_iter: the most steps.
        tol: the length of a step that ends them.

    Returns:
        [*shape], dtype of experts.
    """
    rows = experts.reshape(len(experts), -1).to(torch.promote_types(experts.dtype, torch.float32))
    present = [row for row in rows if row.norm() > _TINY]
    if not present:
        return torch.zeros_like(experts[0])
    share = 1 / len(present)
    units = [row / row.norm() for row in present]
    point = _direction(_combine(units, [share] * len(units)))
    for _ in range(max_iter):
        step = _combine([_logarithm(point, unit) for unit in units], [share] * len(units))
        length = step.norm()
        if length < tol:
            break
        point = _direction(torch.cos(length) * point + torch.sin(length) * (step / length))
    size = _combine([row.norm() for row in present], [share] * len(units))
    return (size * point).reshape(experts.shape[1:]).to(experts.dtype)


def _logarithm(point: Float[Tensor, " size"], unit: Float[Tensor, " size"]) -> Float[Tensor, " size"]:
    """The tangent at one point of the sphere that leads to the other."""
    cosine = torch.dot(point, unit).clamp(-1, 1)
    angle = torch.acos(cosine)
    return torch.zeros_like(point) if angle < _TINY else (angle / torch.sin(angle)) * (unit - cosine * point)


def _combine(rows: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
    """Their weighted sum, from the first to the last."""
    total = torch.zeros_like(rows[0])
    for row, factor in zip(rows, factors, strict=True):
        total = total + factor * row
    return total


def _direction(vector: Tensor) -> Tensor:
    """The vector at length 1; as it is where its length is next to nothing."""
    length = vector.norm()
    return vector / length if length > _TINY else vector
