"""KnOTS with DARE: random entries of the aligned task vectors are dropped before they are merged."""

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.ops.alignment import align
from merge_lib.ops.chance import TensorGenerator
from merge_lib.ops.shares import shares
from merge_lib.ops.signs import disjoint_mean, elect_signs
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import Density, Scale
from merge_lib.working_set import WorkingSet


@merge_method(
    name="knots_dare",
    title="KnOTS-DARE-TIES",
    paper="https://arxiv.org/abs/2410.19735",
    needs_base=True,
    order_free=False,
    works_on="tensor",
    working_set=WorkingSet(stacks=7.0, tensors=5.0),
)
def knots_dare(
    task_vectors: Float[Tensor, " n *shape"],
    *,
    generator: TensorGenerator,
    density: Density = 0.9,
    scale: Scale = 0.7,
    trail: Trail = NO_TRAIL,
) -> Float[Tensor, " *shape"]:
    """The scaled mean, of elected sign, of aligned task vectors of which random entries were dropped.

    [τ_1 | … | τ_T] = U Σ [V_1 | … | V_T];  P_t = m_t ⊙ Σ V_t / (1 − p), m_t ~ Bernoulli(1 − p);  γ = sign(Σ_t P_t);
    τ* = λ U · mean of {P_t : sign(P_t) = γ}, entry by entry. The density is 1 − p, λ the scale.

    Scope: per tensor.
    Variant: as `knots`; nothing is trimmed, as in the authors' configuration. The draws belong to the expert's
        place in the spec, so another order is another draw.
    Differs from the paper: nothing beyond what `knots` says; 0.1 and 0.7 are the drop rate and the scale of the
        authors' configuration for ViT-B/32 with adapters of rank 16.
    Reference: Stoica et al., "Model merging with SVD to tie the knots", ICLR 2025, arXiv:2410.19735.

    Args:
        task_vectors: [n, *shape], floating; one row per expert, in spec order.
        generator: the tensor's own draws.
        density: share of entries kept in each expert's part, on average, in (0, 1].
        scale: factor on the merged task vector.
        trail: told what was dropped and what was outvoted.

    Returns:
        [*shape], dtype of task_vectors.
    """
    aligned = align(task_vectors)
    kept = [generator.keep(expert, tuple(part.shape), density) for expert, part in enumerate(aligned.parts)]
    parts = aligned.parts / density * torch.stack(kept)
    signs = elect_signs(parts)
    trail.note("share kept", lambda: shares(parts != 0))
    trail.note("share against the elected sign", lambda: shares(parts * signs < 0))
    return scale * aligned.restore(disjoint_mean(parts, signs))
