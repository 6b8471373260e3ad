"""KnOTS: task vectors of low rank, aligned by one decomposition and merged in the shared basis."""

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.layers import Layer
from merge_lib.ops.alignment import align
from merge_lib.ops.quantile import Thresholds, fold_thresholds
from merge_lib.ops.shares import shares
from merge_lib.ops.signs import disjoint_mean, elect_signs
from merge_lib.ops.sums import sum_rows
from merge_lib.ops.trimming import TRIMMING, Trim, trimmed
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import Density, Scale
from merge_lib.working_set import WorkingSet


def fold(state: Thresholds, task_vectors: Float[Tensor, " n *shape"], _layer: Layer) -> Thresholds:
    """Count the parts of one tensor."""
    return fold_thresholds(state, align(task_vectors).parts)


@merge_method(
    name="knots",
    title="KnOTS-TIES",
    paper="https://arxiv.org/abs/2410.19735",
    needs_base=True,
    order_free=True,
    scope="model",
    works_on="tensor",
    statistics=replace(TRIMMING, fold=fold),
    working_set=WorkingSet(stacks=7.0, tensors=5.0),
)
def knots(
    task_vectors: Float[Tensor, " n *shape"],
    statistics: Thresholds,
    *,
    combine: Literal["ties", "sum"] = "ties",
    density: Density = 0.2,
    scale: Scale = 0.6,
    trim: Trim = "model",
    trail: Trail = NO_TRAIL,
) -> Float[Tensor, " *shape"]:
    """The scaled TIES merge, or sum, of the task vectors' coordinates in a basis that they share.

    [τ_1 | … | τ_T] = U Σ [V_1 | … | V_T];  τ* = λ U · merge(Σ V_1, …, Σ V_T), with λ the scale.

    Scope: whole model; before the pass that merges, two passes find the thresholds of the parts (four for
        float64, none with trim "tensor" or density 1), each with its own decomposition.
    Variant: for adapters, whose products B A are the task vectors; any other task vector is merged by the same
        formula. As in the authors' code, concatenated along the inputs, Σ goes with V, and parts are trimmed over
        the whole flattened model. Matrices, embeddings among them, are merged so, and convolutions as [out, rest];
        of vectors and single numbers the entries are the parts. `combine="sum"` adds the trimmed parts: at
        density 1 it is task arithmetic.
    Differs from the paper: as in `ties`, plus is elected where parts cancel to exactly 0. Singular values up to
        1e-5 are dropped as in the code, and up to 1e-7 of the largest; the basis is not rounded to float32. Where
        singular values are equal, the basis, and with it the result, is not unique.
    Reference: Stoica et al., "Model merging with SVD to tie the knots", ICLR 2025, arXiv:2410.19735.

    Args:
        task_vectors: [n, *shape], floating; one row per expert, in spec order.
        statistics: each expert's threshold over the parts of the whole model.
        combine: how trimmed parts are merged.
        density: share of the entries of each expert's parts that is kept, in (0, 1].
        scale: factor on the merged task vector.
        trim: over what the largest entries are chosen: the whole model or each tensor.
        trail: is told what was dropped.

    Returns:
        [*shape], dtype of task_vectors.
    """
    aligned = align(task_vectors)
    kept = trimmed(aligned.parts, statistics, density=density, trim=trim)
    signs = elect_signs(kept)
    trail.note("basis", lambda: torch.tensor(len(aligned.parts[0]) if aligned.parts.ndim > 1 else 0))
    trail.note("share kept", lambda: shares(kept != 0))
    trail.note("share against the elected sign", lambda: shares(kept * signs < 0))
    merged = disjoint_mean(kept, signs) if combine == "ties" else sum_rows(kept)
    return scale * aligned.restore(merged)
