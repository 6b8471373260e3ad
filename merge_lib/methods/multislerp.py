"""Multi-SLERP: the mean direction of several checkpoints at their mean length."""

from jaxtyping import Float
from torch import Tensor

from merge_lib.ops.arcs import mean_direction
from merge_lib.ops.sphere import Centre, centred, on_sphere, placed
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.working_set import WorkingSet


@merge_method(
    name="multislerp",
    title="Multi-SLERP",
    paper="https://goddard.blog/posts/multislerp-wow-what-a-cool-idea",
    needs_base=False,
    order_free=True,
    works_on="tensor",
    working_set=WorkingSet(stacks=1.0, tensors=1.5),
)
def multislerp(
    experts: Float[Tensor, " n *shape"],
    base: Float[Tensor, " *shape"] | None,
    *,
    centre: Centre = "zero",
    trail: Trail = NO_TRAIL,
) -> Float[Tensor, " *shape"]:
    """The point in the mean of the checkpoints' directions, at the mean of their lengths.

    v = Σ_i θ_i / ‖θ_i‖;  θ* = mean_i ‖θ_i‖ · v / ‖v‖, of flattened tensors; seen from the base, the same of task
    vectors.

    Scope: per tensor.
    Variant: all weigh the same. mergekit's multislerp goes on by the mean of the projections to the tangent space,
        which is 0 but for rounding.
    Differs from the paper: there is none beside that text and mergekit's code. A zero tensor has a length but no
        direction. Where the directions cancel the plain mean is taken.
    Reference: Goddard, "Multi-SLERP", 2025.

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
    merged = on_sphere(rows, mean_direction, zeros_count=True, trail=trail)
    return placed(merged, base, centre)
