"""DARE + TIES: drop entries at random, then merge those that agree in sign."""

from jaxtyping import Float
from torch import Tensor

from merge_lib.ops.chance import TensorGenerator
from merge_lib.ops.shares import shares
from merge_lib.ops.signs import disjoint_mean, elect_signs
from merge_lib.ops.sparsify import drop_at_random
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import Density, Scale
from merge_lib.working_set import WorkingSet


@merge_method(
    name="dare_ties",
    title="DARE + TIES",
    paper="https://arxiv.org/abs/2311.03099",
    needs_base=True,
    order_free=False,
    working_set=WorkingSet(stacks=3.4, tensors=4.5),
)
def dare_ties(
    task_vectors: Float[Tensor, " n *shape"],
    *,
    generator: TensorGenerator,
    trail: Trail = NO_TRAIL,
    density: Density = 0.9,
    scale: Scale = 1.0,
) -> Float[Tensor, " *shape"]:
    """The scaled mean of randomly thinned task vectors whose sign was elected.

    τ̃_t = m_t ⊙ τ_t / (1 − p), m_t ~ Bernoulli(1 − p);  γ = sign(Σ_t τ̃_t);
    τ* = λ · mean of {τ̃_t : sign(τ̃_t) = γ}, entry by entry, with 1 − p the density and λ the scale.

    Scope: per tensor.
    Variant: divided by the density, as in the paper; mergekit's dare_ties rescales to the L1 norm before the
        drop and divides by the sum of the agreeing weights. The draws belong to the expert's place in the
        spec, so another order is another draw.
    Differs from the paper: DARE takes the place of TIES's trimming; the authors' code then trims what is left by
        magnitude over the whole model, too. Where entries cancel, plus is elected.
    Reference: Yu et al., "Language models are super mario", ICML 2024, arXiv:2311.03099.

    Args:
        task_vectors: [n, *shape], floating; one row per expert, in spec order.
        generator: the tensor's own draws.
        trail: notes the shares of entries kept, and outvoted.
        density: share of entries kept in each task vector, on average, in (0, 1].
        scale: factor on the merged task vector.

    Returns:
        [*shape], dtype of task_vectors.
    """
    thinned = drop_at_random(task_vectors, density, generator)
    trail.note("share kept", lambda: shares(thinned != 0))
    signs = elect_signs(thinned)
    trail.note("share against the elected sign", lambda: shares(thinned * signs < 0))
    return scale * disjoint_mean(thinned, signs)
