"""EMR-Merging: elect one vector, mask and rescale it for each task."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.layers import Layer
from merge_lib.looks import Look
from merge_lib.ops.decoding import check_task
from merge_lib.ops.shares import shares
from merge_lib.ops.unify import (
    Magnitudes,
    Rescaler,
    agrees,
    begin_magnitudes,
    close_magnitudes,
    decouple,
    fold_magnitudes,
    join_magnitudes,
    unify,
)
from merge_lib.registry import ModelStatistics, merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import TaskIndex
from merge_lib.working_set import WorkingSet


def begin(count: int, _dtype: torch.dtype, *, task: TaskIndex, rescaler: Rescaler, **_: Any) -> Magnitudes:
    """The shared vector itself needs no rescaler, and so no pass."""
    check_task(task, count)
    return begin_magnitudes(count, rescaler, complete=task == -1)


def fold(state: Magnitudes, task_vectors: Float[Tensor, " n *shape"], layer: Layer) -> Magnitudes:
    """Add one tensor to the sums."""
    entries = int(torch.Size(layer.shape).numel())
    return fold_magnitudes(state, task_vectors, unify(task_vectors), entries)


@merge_method(
    name="emr",
    title="EMR-Merging",
    paper="https://arxiv.org/abs/2405.17461",
    needs_base=True,
    order_free=True,
    scope="model",
    statistics=ModelStatistics(
        begin, fold, close_magnitudes, join_magnitudes, looks=(Look(unless={"task": -1}),)
    ),
    working_set=WorkingSet(stacks=0.2, tensors=7.0),
)
def emr(
    task_vectors: Float[Tensor, " n *shape"],
    statistics: Magnitudes,
    *,
    trail: Trail = NO_TRAIL,
    task: TaskIndex = -1,
    rescaler: Rescaler = "global_l1",  # noqa: ARG001 -- read by `begin`
) -> Float[Tensor, " *shape"]:
    """One task's share of the unified vector, masked and rescaled, or that vector itself.

    u_j = s_j · max_t {|τ_{t,j}| : τ_{t,j} s_j > 0}, s_j the sign of Σ_t τ_{t,j};  M_t = [τ_t ⊙ u > 0];
    λ_t = ‖τ_t‖₁ / ‖M_t ⊙ u‖₁ over the whole model;  τ̂_t = λ_t M_t ⊙ u.

    Scope: whole model; one pass finds the rescalers, none with task −1. To be kept are u, a bit an entry and
        task, and a number a task.
    Variant: signs elected by the sum; an exact zero counts as minus.
    Differs from the paper: nothing. Where u holds nothing of a task its rescaler is 0, for which the
        formula has 0/0 or a division by 0. `rescaler="official"` divides sums of each tensor's mean magnitude,
        as the authors' code for few tasks does.
    Reference: Huang et al., "EMR-Merging", NeurIPS 2024, arXiv:2405.17461.

    Args:
        task_vectors: [n, *shape], floating; one row per expert, in spec order.
        statistics: sums of magnitudes over the whole model.
        trail: notes each task's mask density, and the rescaler of the one asked for.
        task: which expert's vector is given back; −1 is the unified one.
        rescaler: what λ divides: magnitudes of the whole model, or sums of each tensor's mean magnitude.

    Returns:
        [*shape], dtype of task_vectors.

    Raises:
        MethodInputError: there is no such task.
    """
    check_task(task, len(task_vectors))
    unified = unify(task_vectors)
    trail.note("share kept", lambda: shares(torch.stack([agrees(row, unified) for row in task_vectors])))
    if task == -1:
        return unified
    trail.note("rescaler", lambda: torch.tensor(statistics.rescalers[task], dtype=torch.float64))
    return decouple(unified, agrees(task_vectors[task], unified), statistics.rescalers[task])
