"""Consensus merging: drop what serves one task only, or none."""

from jaxtyping import Float
from torch import Tensor

from merge_lib.methods.tall_masks import BY_COMBINATION, Combine, masks, multi_task_vector
from merge_lib.ops.quantile import Thresholds
from merge_lib.ops.shares import shares
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import Density, Natural, Scale, Weight
from merge_lib.working_set import WorkingSet


@merge_method(
    name="consensus",
    title="Consensus merging",
    paper="https://arxiv.org/abs/2405.07813",
    needs_base=True,
    order_free=True,
    scope="model",
    statistics=BY_COMBINATION,
    working_set=WorkingSet(stacks=3.5, tensors=1.5),
)
def consensus(
    task_vectors: Float[Tensor, " n *shape"],
    statistics: Thresholds,
    *,
    trail: Trail = NO_TRAIL,
    tasks: Natural = 2,
    threshold: Weight = 0.4,
    scale: Scale = 0.3,
    combine: Combine = "sum",
    density: Density = 0.2,  # noqa: ARG001 -- read by `begin`
) -> Float[Tensor, " *shape"]:
    """The scaled multi-task vector without the entries that matter to fewer than two tasks.

    Δ and M_t as in `tall_masks`;  τ* = α Δ ⊙ [Σ_t M_t ≥ k], with α the scale and k the tasks.

    Scope: per tensor; with combine "ties" whole model: two passes find the thresholds (four for float64).
    Variant: Consensus task arithmetic; Consensus TIES with combine "ties", where Δ is the sum, not the mean, of the
        agreeing entries. k = 1 drops only what no task uses, k = 0 nothing.
    Differs from the paper: one threshold for all tasks and an untuned scale; it chooses both on validation
        data. 0.3 is task arithmetic's scale for eight tasks. An expert alone has no consensus with anybody: with
        k = 2 the base comes back.
    Reference: Wang et al., "Localizing task information for improved model merging and compression", ICML
        2024, arXiv:2405.07813.

    Args:
        task_vectors: [n, *shape], floating; one row per expert, in spec order.
        statistics: each expert's trimming threshold over the whole model, with combine "ties".
        trail: notes each task's mask density, and the share of entries that are kept, that one task uses
            ("share selfish"), and that none uses ("share catastrophic").
        tasks: how many tasks must use an entry.
        threshold: how much of the others' share an entry must exceed to be used by a task.
        scale: factor on the multi-task vector.
        combine: how the multi-task vector is made.
        density: share of entries that trimming keeps, in (0, 1], with combine "ties".

    Returns:
        [*shape], dtype of task_vectors.
    """
    total = multi_task_vector(task_vectors, statistics, combine)
    used = masks(task_vectors, total, threshold)
    users = used.sum(dim=0)
    trail.note("share used", lambda: shares(used))
    trail.note("share kept", lambda: shares((users >= tasks)[None]))
    trail.note("share selfish", lambda: shares((users == 1)[None]))
    trail.note("share catastrophic", lambda: shares((users == 0)[None]))
    return scale * (total * (users >= tasks))
