"""TIES: trim, elect signs, merge those that agree."""

from jaxtyping import Float
from torch import Tensor

from merge_lib.ops.quantile import Thresholds
from merge_lib.ops.shares import energy_removed, share_of_mass, shares
from merge_lib.ops.signs import disjoint_mean, elect_signs
from merge_lib.ops.trimming import TRIMMING, Trim, trimmed
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import Density, Scale
from merge_lib.working_set import WorkingSet


@merge_method(
    name="ties",
    title="TIES",
    paper="https://arxiv.org/abs/2306.01708",
    needs_base=True,
    order_free=True,
    scope="model",
    whole_where={"trim": "tensor"},
    statistics=TRIMMING,
    working_set=WorkingSet(stacks=3.6, tensors=4.5),
)
def ties(
    task_vectors: Float[Tensor, " n *shape"],
    statistics: Thresholds,
    *,
    density: Density = 0.2,
    scale: Scale = 1.0,
    trim: Trim = "model",
    trail: Trail = NO_TRAIL,
) -> Float[Tensor, " *shape"]:
    """The scaled mean of the trimmed task vectors whose sign was elected.

    τ̂_t = τ_t where |τ_t| is among the largest share `density`, else 0;  γ = sign(Σ_t τ̂_t);
    τ* = λ · mean of {τ̂_t : sign(τ̂_t) = γ}, entry by entry, with λ the scale.

    Scope: whole model; before the pass that merges, two passes find the thresholds (four for float64, none
        with trim "tensor" or density 1).
    Variant: the paper's. Trimmed over the whole flattened model, sign elected on the unweighted trimmed
        vectors, mean over the agreeing non-zero entries. `trim="tensor"` trims each tensor by itself, as PEFT
        and mergekit do.
    Differs from the paper: where non-zero entries cancel to exactly 0, plus is elected; the authors' code
        takes the majority sign of the model. The number of entries kept is rounded to the nearest, and all
        that equal the smallest one kept are kept.
    Reference: Yadav et al., "TIES-Merging", NeurIPS 2023, arXiv:2306.01708, algorithm 1.

    Args:
        task_vectors: [n, *shape], floating; one row per expert, in spec order.
        statistics: each expert's threshold over the whole model.
        density: share of entries kept in each task vector, in (0, 1].
        scale: factor on the merged task vector.
        trim: over what the largest entries are chosen: the whole model or each tensor.
        trail: told what was trimmed and what was outvoted.

    Returns:
        [*shape], dtype of task_vectors.
    """
    kept = trimmed(task_vectors, statistics, density=density, trim=trim)
    signs = elect_signs(kept)
    trail.note("share kept", lambda: shares(kept != 0))
    trail.note("energy trimmed", lambda: energy_removed(kept, task_vectors))
    trail.note("energy outvoted", lambda: share_of_mass(kept * (kept * signs < 0), task_vectors))
    return scale * disjoint_mean(kept, signs)
