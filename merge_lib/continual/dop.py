"""DOP: each new expert is merged so that the strong directions of the old changes and of the new stay in place."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.layers import Layer
from merge_lib.ops.adam import minimise
from merge_lib.ops.subspace import thin_svd
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import Fraction, LearningRate, Share, Steps
from merge_lib.working_set import WorkingSet

_END = 0.999  # the weight at an end of the segment between two gradients, as in the authors' solver


@dataclass(frozen=True)
class State:
    """The merged task vector so far; None before the first expert."""

    merged: Tensor | None = None


@dataclass(frozen=True)
class Anchor:
    """A task vector τ = U Σ Vᵀ and the weights of its directions; the loss at Δ is ‖Σ Uᵀ D‖² + ‖D V Σ‖², D = Δ − τ."""

    task_vector: Float[Tensor, "m n"]
    outputs: Float[Tensor, "m m"]  # U Σ² Uᵀ
    inputs: Float[Tensor, "n n"]  # V Σ² Vᵀ

    def half_gradient(self, point: Float[Tensor, "m n"]) -> tuple[float, Float[Tensor, "m n"]]:
        """The loss at a point, and half its gradient there."""
        difference = point - self.task_vector
        slope = torch.addmm(self.outputs @ difference, difference, self.inputs)
        return inner(difference, slope), slope


def init(base: Tensor | None) -> State:  # noqa: ARG001 -- the engine subtracts the base
    """No expert yet."""
    return State()


@merge_method(
    name="dop",
    title="DOP",
    paper="https://openreview.net/forum?id=zD5cUX67b9",
    needs_base=True,
    order_free=False,
    works_on="tensor",
    init=init,
    working_set=WorkingSet(stacks=0.0, tensors=10.0, outputs=2.2, inputs=2.2, smaller=3.0),
)
def dop(  # noqa: PLR0913 -- five parameters, the state, and what the engine gives
    state: State,
    task_vector: Float[Tensor, " *shape"],
    layer: Layer,
    *,
    weight: Fraction = 0.8,
    decay: Fraction = 0.999,
    share: Share = 0.99999,
    steps: Steps = 200,
    learning_rate: LearningRate = 1e-4,
    trail: Trail = NO_TRAIL,
) -> tuple[Float[Tensor, " *shape"], State]:
    """The task vector between the merged one and the new expert's that moves neither in its strong directions.

    Minimises w L(Δ; τ̄_{t−1}) + (1 − w) L(Δ; τ_t) from the mean of the two by Adam, where
    L(Δ; τ) = ‖Σ Uᵀ (Δ − τ)‖_F² + ‖(Δ − τ) V Σ‖_F², τ = U Σ Vᵀ;  w starts at the weight and each step goes to
    decay · w + (1 − decay) · γ, with γ the first's weight in the shortest vector between the two gradients, each
    divided by its loss.

    Scope: per tensor; the state is one tensor.
    Variant: as in the authors' code in FusionBench: of U Σ Vᵀ the first triplets that hold the stated share of Σ's
        sum; γ from 0.001 to 0.999. U Σ² Uᵀ and V Σ² Vᵀ are multiplied out once. Linear weights are merged so; of all
        other tensors, embeddings and convolutions too, the mean of the merged and the new one is taken, so that
        an expert's part in those halves with every later one.
    Differs from the paper: the triplet that completes the share is kept; the code leaves it out, and with it all of
        a matrix of rank 1. A loss of 0 divides by 1. A decay of 1 keeps the weight as it is.
    Reference: Yang et al., "Continual model merging without data: dual projections for balancing stability and
        plasticity", NeurIPS 2025.

    Args:
        state: what the experts before left.
        task_vector: [*shape], floating; the new expert − base.
        layer: says whether this is a linear weight.
        weight: of what was merged before, at the start of each minimisation.
        decay: how slowly the weight follows the gradients.
        share: of the sum of singular values, how much the directions of each task vector hold.
        steps: of Adam.
        learning_rate: of Adam.
        trail: is told how far both are from where they were.

    Returns:
        The merged task vector, [*shape], and the state that holds it.
    """
    if state.merged is None:
        return task_vector.clone(), State(task_vector.clone())
    start = (state.merged + task_vector) / 2
    if layer.role != "linear" or task_vector.numel() == 0:
        return start, State(start)
    anchors = [anchor(one, share) for one in (state.merged, task_vector)]
    slope = balanced(*anchors, weight=weight, decay=decay)
    merged = minimise(start, slope, steps=steps, learning_rate=learning_rate)
    for whose, one in zip(("earlier merge", "new expert"), anchors, strict=True):
        for when, point in (("at the mean", start), ("left", merged)):
            quantity = f"loss of the {whose} {when}"
            trail.note(quantity, lambda one=one, at=point: torch.tensor(one.half_gradient(at)[0]))
    return merged, State(merged)


def anchor(task_vector: Float[Tensor, "m n"], share: float) -> Anchor:
    """Weights of the directions that hold the share, in the task vector's dtype."""
    factors = thin_svd(task_vector)
    sums = factors.values.cumsum(0)
    factors = factors.first(int((sums < share * sums[-1]).sum()) + 1)
    left, right = factors.left * factors.values, factors.values[:, None] * factors.right
    dtype = task_vector.dtype
    return Anchor(task_vector, (left @ left.mT).to(dtype), (right.mT @ right).to(dtype))


def balanced(old: Anchor, new: Anchor, *, weight: float, decay: float) -> Callable[[Tensor], Tensor]:
    """The gradient of the weighted loss, whose weight follows from call to call."""

    def gradient(point: Tensor) -> Tensor:
        nonlocal weight
        (loss_old, slope_old), (loss_new, slope_new) = old.half_gradient(point), new.half_gradient(point)
        if decay < 1:
            sizes = loss_old or 1.0, loss_new or 1.0
            own = shortest(slope_old, slope_new, sizes)
            weight = decay * weight + (1 - decay) * own
        return 2 * weight * slope_old + 2 * (1 - weight) * slope_new

    return gradient


def shortest(first: Float[Tensor, "m n"], second: Float[Tensor, "m n"], sizes: tuple[float, float]) -> float:
    """The first's weight in the shortest vector on the segment between first / sizes[0] and second / sizes[1]."""
    square = inner(first, first) / sizes[0] ** 2
    other = inner(second, second) / sizes[1] ** 2
    mixed = inner(first, second) / (sizes[0] * sizes[1])
    if mixed >= square:
        return _END
    if mixed >= other:
        return 1 - _END
    return (other - mixed) / (square + other - 2 * mixed)


def inner(left: Float[Tensor, "m n"], right: Float[Tensor, "m n"]) -> float:
    """The sum of products, in float64."""
    return float((left.double() * right).sum())
