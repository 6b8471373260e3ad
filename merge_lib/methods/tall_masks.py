"""TALL-masks: from the sum of all task vectors back to each."""

from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from merge_lib.looks import Look
from merge_lib.ops.decoding import check_task
from merge_lib.ops.quantile import Thresholds, begin_thresholds
from merge_lib.ops.shares import shares
from merge_lib.ops.signs import disjoint_sum, elect_signs
from merge_lib.ops.sparsify import keep_large
from merge_lib.ops.sums import sum_rows
from merge_lib.ops.trimming import TRIMMING
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import Density, TaskIndex, Weight
from merge_lib.working_set import WorkingSet

Combine = Literal["sum", "ties"]


def begin(count: int, dtype: torch.dtype, *, combine: Combine, density: Density, **given: Any) -> Thresholds:
    """Thresholds are needed where task vectors are trimmed, which a plain sum does not."""
    check_task(given.get("task", -1), count)
    return begin_thresholds(count, dtype, share=density, complete=combine == "sum")


BY_COMBINATION = replace(
    TRIMMING, begin=begin, looks=(Look("threshold", unless={"density": 1, "combine": "sum"}),)
)


@merge_method(
    name="tall_masks",
    title="TALL-masks",
    paper="https://arxiv.org/abs/2405.07813",
    needs_base=True,
    order_free=True,
    scope="model",
    statistics=BY_COMBINATION,
    working_set=WorkingSet(stacks=3.6, tensors=1.2),
)
def tall_masks(
    task_vectors: Float[Tensor, " n *shape"],
    statistics: Thresholds,
    *,
    trail: Trail = NO_TRAIL,
    task: TaskIndex = -1,
    threshold: Weight = 0.4,
    combine: Combine = "sum",
    density: Density = 0.2,  # noqa: ARG001 -- read by `begin`
) -> Float[Tensor, " *shape"]:
    """The part of the multi-task vector that matters to one task, or all of it.

    Δ = Σ_t τ_t;  M_t = [|τ_t| > λ |Δ − τ_t|];  τ̂_t = M_t ⊙ Δ, with λ the threshold.

    Scope: per tensor; with combine "ties" whole model: two passes find the thresholds (four for float64). To
        be kept are Δ and a bit an entry and task.
    Variant: Δ is the sum; with combine "ties" the sum of those trimmed entries that have the elected sign, trimmed
        over the whole model. The masks compare with the untrimmed task vectors.
    Differs from the paper: one threshold for all tasks; it chooses one for each from 0.2, 0.3, …, 0.6 on
        validation data. To choose so, merge with each and take the best for every task.
    Reference: Wang et al., "Localizing task information for improved model merging and compression", ICML
        2024, arXiv:2405.07813.

    Args:
        task_vectors: [n, *shape], floating; one row per expert, in spec order.
        statistics: each expert's trimming threshold over the whole model, with combine "ties".
        trail: notes each task's mask density.
        task: which expert's vector is given back; −1 is the multi-task vector.
        threshold: how much of the others' share an entry must exceed; larger masks are sparser.
        combine: how the multi-task vector is made.
        density: share of entries that trimming keeps, in (0, 1], with combine "ties".

    Returns:
        [*shape], dtype of task_vectors.

    Raises:
        MethodInputError: there is no such task.
    """
    check_task(task, len(task_vectors))
    total = multi_task_vector(task_vectors, statistics, combine)
    trail.note("share kept", lambda: shares(masks(task_vectors, total, threshold)))
    if task == -1:
        return total
    return total * masks(task_vectors[task : task + 1], total, threshold)[0]


def multi_task_vector(
    task_vectors: Float[Tensor, " n *shape"], trimming: Thresholds, combine: Combine
) -> Float[Tensor, " *shape"]:
    """The sum of task vectors, of those trimmed entries that agree in sign with combine "ties"."""
    if combine == "sum":
        return sum_rows(task_vectors)
    trimmed = keep_large(task_vectors, trimming.values)
    return disjoint_sum(trimmed, elect_signs(trimmed))


def masks(
    task_vectors: Float[Tensor, " n *shape"], total: Float[Tensor, " *shape"], threshold: float
) -> Bool[Tensor, " n *shape"]:
    """Where a task's own share of the multi-task vector is large beside the others' share."""
    return task_vectors.abs() > threshold * (total - task_vectors).abs()
