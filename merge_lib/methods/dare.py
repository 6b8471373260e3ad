"""DARE: drop entries at random and rescale the rest."""

from jaxtyping import Float
from torch import Tensor

from merge_lib.ops.chance import TensorGenerator
from merge_lib.ops.shares import energy_removed, shares
from merge_lib.ops.sparsify import drop_at_random
from merge_lib.ops.sums import sum_rows
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import Density, Scale
from merge_lib.working_set import WorkingSet


@merge_method(
    name="dare",
    title="DARE + task arithmetic",
    paper="https://arxiv.org/abs/2311.03099",
    needs_base=True,
    order_free=False,
    working_set=WorkingSet(stacks=3.6, tensors=1.0),
)
def dare(
    task_vectors: Float[Tensor, " n *shape"],
    *,
    generator: TensorGenerator,
    density: Density = 0.9,
    scale: Scale = 0.3,
    trail: Trail = NO_TRAIL,
) -> Float[Tensor, " *shape"]:
    """The scaled sum of task vectors of which random entries were dropped.

    τ̃_t = m_t ⊙ τ_t / (1 − p), m_t ~ Bernoulli(1 − p), so that E[τ̃_t] = τ_t;  τ* = λ Σ_t τ̃_t.
    The density is 1 − p, λ the scale.

    Scope: per tensor.
    Variant: divided by the density, as in the paper; mergekit rescales to the L1 norm before the drop.
        Combined by task arithmetic. The draws belong to the expert's place in the spec, so another order is
        another draw.
    Differs from the paper: nothing; the default drop rate 0.1 is that of the authors' code.
    Reference: Yu et al., "Language models are super mario", ICML 2024, arXiv:2311.03099, section 3.2.

    Args:
        task_vectors: [n, *shape], floating; one row per expert, in spec order.
        generator: the tensor's own draws.
        density: share of entries kept in each task vector, on average, in (0, 1].
        scale: factor on the sum.
        trail: told what was dropped.

    Returns:
        [*shape], dtype of task_vectors.
    """
    thinned = drop_at_random(task_vectors, density, generator)
    trail.note("share kept", lambda: shares(thinned != 0))
    trail.note("energy dropped", lambda: energy_removed(task_vectors * (thinned != 0), task_vectors))
    return scale * sum_rows(thinned)
