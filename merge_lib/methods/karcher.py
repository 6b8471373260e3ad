"""Karcher mean: the point of the sphere nearest to several checkpoints."""

from jaxtyping import Float
from torch import Tensor

from merge_lib.ops.arcs import karcher_mean
from merge_lib.ops.sphere import Centre, centred, on_sphere, placed
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.working_set import WorkingSet


@merge_method(
    name="karcher",
    title="Karcher mean",
    paper="https://arxiv.org/abs/2603.04972",
    needs_base=False,
    order_free=True,
    works_on="tensor",
    working_set=WorkingSet(stacks=1.0, tensors=1.5),
)
def karcher(
    experts: Float[Tensor, " n *shape"],
    base: Float[Tensor, " *shape"] | None,
    *,
    centre: Centre = "zero",
    trail: Trail = NO_TRAIL,
) -> Float[Tensor, " *shape"]:
    """The point with the least squared angles to the checkpoints, at the mean of their lengths.

    u = argmin Σ_i angle(u, θ_i)²;  θ* = mean_i ‖θ_i‖ · u, of flattened tensors; seen from the base, the same of
    task vectors. Found by steps u ← exp_u(mean_i log_u(θ_i / ‖θ_i‖)) from the mean direction.

    Scope: per tensor.
    Variant: the spherical form, whose steps are computed from the cosines between checkpoints alone, in float64, so
        that each costs n² rather than n passes over the tensor; they end when nothing moves by 1e-13.
    Differs from the paper: all weigh the same. mergekit's karcher ends at a step of 1e-5 or the tenth. Zero
        tensors, which have no direction, are left out; where the directions cancel the plain mean is taken.
    Reference: Wang et al., "Functionality-oriented LLM merging on the Fisher–Rao manifold", 2026,
        arXiv:2603.04972; Karcher, "Riemannian center of mass", 1977.

    Args:
        experts: [n, *shape], floating; one row per checkpoint, in spec order.
        base: [*shape], or None.
        centre: where the sphere's centre is: "zero", or "base" for task vectors.
        trail: told what each checkpoint weighs.

    Returns:
        [*shape], dtype of experts.

    Raises:
        MethodInputError: the base is to be the centre, but there is none.
    """
    rows = centred(experts, base, centre)
    merged = on_sphere(rows, karcher_mean, zeros_count=False, trail=trail)
    return placed(merged, base, centre)
