"""ConDU: one vector that stands for all experts, decoupled and unified anew as each arrives."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from merge_lib.ops.bits import pack, unpack
from merge_lib.ops.decoding import check_task
from merge_lib.ops.shares import shares
from merge_lib.ops.sums import magnitude_sum
from merge_lib.ops.unify import Rescaler, ZeroSumSign, agrees, decouple, unify_extremes
from merge_lib.registry import SharedState, merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import TaskIndex
from merge_lib.working_set import WorkingSet

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """What is kept of a tensor after t experts; None before the first.

    Attributes:
        unified: the unified task vector; None without drift.
        masks: of each task, a bit an entry; without drift: where its task vector is positive.
        negatives: without drift, where it is negative.
        total: without drift, the sum of all task vectors.
        largest: without drift, of every entry the largest.
        smallest: without drift, of every entry the smallest.
        magnitudes: without drift, of each task vector the sum of magnitudes, or their mean.
    """

    unified: Float[Tensor, " *shape"] | None = None
    masks: UInt8[Tensor, " t bytes"] | None = None
    negatives: UInt8[Tensor, " t bytes"] | None = None
    total: Float[Tensor, " *shape"] | None = None
    largest: Float[Tensor, " *shape"] | None = None
    smallest: Float[Tensor, " *shape"] | None = None
    magnitudes: Float[Tensor, " t"] | None = None


@dataclass(frozen=True)
class Shared:
    """The rescaler of each task, in the order of the experts."""

    rescalers: tuple[float, ...] = ()


def init(base: Tensor | None) -> State:  # noqa: ARG001 -- the engine subtracts the base
    """No expert yet."""
    return State()


def settle(shared: Shared, sums: Float[Tensor, " _"]) -> Shared:  # noqa: ARG001 -- all rescalers are new
    """λ_i: the magnitude of task i over that of what the unified vector holds of it; 0 where it holds nothing."""
    own, held = (half.tolist() for half in sums.chunk(2))
    for task, (wanted, got) in enumerate(zip(own, held, strict=True)):
        if wanted and not got:
            logger.warning(
                "The unified vector holds nothing of task %d; its model is the base from here on.", task
            )
    return Shared(tuple(wanted / got if got else 0.0 for wanted, got in zip(own, held, strict=True)))


def read(
    state: State, shared: Shared, *, task: TaskIndex = -1, zero_sum_sign: ZeroSumSign = "minus"
) -> Float[Tensor, " *shape"]:
    """The task vector of one task, λ_i M_i ⊙ u, or the unified one.

    Args:
        state: of the tensor.
        shared: the rescalers.
        task: whose task vector, from 0; −1: the unified one.
        zero_sum_sign: of entries whose sum is 0.

    Returns:
        [*shape].

    Raises:
        MethodInputError: there is no such task.
    """
    check_task(task, len(shared.rescalers))
    unified = _unified(state, zero_sum_sign)
    return unified.clone() if task < 0 else _decoupled(state, unified, task, shared.rescalers[task])


@merge_method(
    name="condu",
    title="ConDU",
    paper="https://arxiv.org/abs/2503.10705",
    needs_base=True,
    order_free=False,
    scope="model",
    works_on="tensor",
    init=init,
    shared=SharedState(Shared, settle, read),
    working_set=WorkingSet(stacks=0.6, tensors=22.0),
)
def condu(
    state: State,
    task_vector: Float[Tensor, " *shape"],
    shared: Shared,
    *,
    rescaler: Rescaler = "global_l1",
    drift: bool = True,
    zero_sum_sign: ZeroSumSign = "minus",
    trail: Trail = NO_TRAIL,
) -> tuple[State, Float[Tensor, " _"]]:
    """A unified task vector, with a mask and a rescaler that give a model for each task.

    a_i = λ_i M_i ⊙ u for the tasks before, a_t = τ_t;  s = sign(Σ_i a_i);  u_j = s_j max{|a_{i,j}| : a_{i,j} s_j > 0};
    M_i = [a_i ⊙ s > 0];  λ_i = ‖a_i‖₁ / ‖M_i ⊙ u‖₁ over the whole model;  the model of task i is θ_0 + λ_i M_i ⊙ u.

    Scope: whole model; rescalers are sums over all tensors. The state is one tensor and one bit an entry and task.
    Variant: rescaler "global_l1" as above, EMR-Merging's; "official" has Σ_n mean_{j∈n}|a_{i,j}| over the tensors n in
        place of norms, as the authors' code. Every mask and rescaler is made anew at each step. Unified again without
        a new expert, or with one that equals the base, the old tasks drift: their L1 norms stay, their directions
        do not. `drift=False` keeps the sum, the largest and the smallest task vector, entry by entry, and two bits
        an entry and task, from which all is computed as from the experts themselves: EMR-Merging of all so far,
        in three tensors, whatever the order.
    Differs from the paper: a rescaler whose mask is empty is 0, with a warning, rather than a division by 0;
        `drift` and `zero_sum_sign` are ours. Choosing the task of an input by prototypes is not part of the merge:
        `task` says it.
    Reference: ConDU, arXiv:2503.10705, ICLR 2026; Huang et al., "EMR-Merging", NeurIPS 2024, whose step it runs anew.

    Args:
        state: what the experts before left.
        task_vector: [*shape], floating; the new expert − base.
        shared: the rescalers so far.
        rescaler: what stays the same when a task is unified: the L1 norm, or the sum of the tensors' means.
        drift: old tasks are unified from what the unified vector holds of them, as in the paper.
        zero_sum_sign: of entries whose sum is 0.
        trail: told what the step removed.

    Returns:
        The state, and float64 [2t]: of every task the magnitude of its vector, then of what is held of it.
    """
    if not drift:
        return _stepped_without_drift(state, task_vector, rescaler, zero_sum_sign, trail)

    def members() -> Iterator[Tensor]:
        return chain(_all_decoupled(state, shared), [task_vector])

    unified = unify_extremes(*_extremes(members()), zero_sum_sign=zero_sum_sign)
    masks, own, held = [], [], []
    for member in members():
        mask = agrees(member, unified)
        masks.append(pack(mask))
        own.append(_magnitude(member, rescaler))
        held.append(_magnitude(unified * mask, rescaler))
    packed = torch.stack(masks)
    trail.note("share kept", lambda: _shares(packed, task_vector))
    return State(unified, packed), torch.tensor([*own, *held], dtype=torch.float64)


def _all_decoupled(state: State, shared: Shared) -> Iterator[Tensor]:
    """What the unified vector holds of each task so far."""
    for task, rescaler in enumerate(shared.rescalers):
        yield _decoupled(state, state.unified, task, rescaler)  # type: ignore[arg-type]


def _extremes(members: Iterator[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Sum, largest and smallest, entry by entry, from the first to the last."""
    first = next(members)
    total, largest, smallest = first, first, first
    for member in members:
        total, largest, smallest = total + member, largest.maximum(member), smallest.minimum(member)
    return total, largest, smallest


def _stepped_without_drift(
    state: State, task_vector: Tensor, rescaler: Rescaler, zero_sum_sign: ZeroSumSign, trail: Trail
) -> tuple[State, Tensor]:
    """One more expert in the sum, the extremes and the bits."""
    added = State(
        masks=pack(task_vector > 0)[None],
        negatives=pack(task_vector < 0)[None],
        total=task_vector.clone(),
        largest=task_vector.clone(),
        smallest=task_vector.clone(),
        magnitudes=torch.tensor([_magnitude(task_vector, rescaler)], dtype=torch.float64),
    )
    state = added if state.total is None else _joined(state, added)
    unified = _unified(state, zero_sum_sign)
    kept = [_mask(state, unified, task) for task in range(len(state.magnitudes))]  # type: ignore[arg-type]
    trail.note("share kept", lambda: _shares(torch.stack([pack(mask) for mask in kept]), task_vector))
    held = [_magnitude(unified * mask, rescaler) for mask in kept]
    return state, torch.cat([state.magnitudes, torch.tensor(held, dtype=torch.float64)])  # type: ignore[list-item]


def _joined(one: State, other: State) -> State:
    """Of two states without drift that of both."""
    return State(
        masks=torch.cat([one.masks, other.masks]),  # type: ignore[list-item]
        negatives=torch.cat([one.negatives, other.negatives]),  # type: ignore[list-item]
        total=one.total + other.total,  # type: ignore[operator]
        largest=one.largest.maximum(other.largest),  # type: ignore[union-attr]
        smallest=one.smallest.minimum(other.smallest),  # type: ignore[union-attr]
        magnitudes=torch.cat([one.magnitudes, other.magnitudes]),  # type: ignore[list-item]
    )


def _unified(state: State, zero_sum_sign: ZeroSumSign) -> Tensor:
    if state.unified is not None:
        return state.unified
    return unify_extremes(state.total, state.largest, state.smallest, zero_sum_sign=zero_sum_sign)  # type: ignore[arg-type]


def _mask(state: State, unified: Tensor, task: int) -> Tensor:
    mask = unpack(state.masks[task], unified.shape)  # type: ignore[index]
    if state.negatives is None:
        return mask
    return (mask & (unified > 0)) | (unpack(state.negatives[task], unified.shape) & (unified < 0))


def _decoupled(state: State, unified: Tensor, task: int, rescaler: float) -> Tensor:
    return decouple(unified, _mask(state, unified, task), rescaler)


def _magnitude(tensor: Tensor, rescaler: Rescaler) -> float:
    """One tensor's part in what rescalers are made of."""
    return magnitude_sum(tensor) / (1 if rescaler == "global_l1" else max(tensor.numel(), 1))


def _shares(masks: UInt8[Tensor, " t bytes"], like: Tensor) -> Float[Tensor, " t"]:
    """Of each task the share of entries that it keeps."""
    return shares(torch.stack([unpack(mask, like.shape) for mask in masks]))
