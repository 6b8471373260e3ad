"""OPCM: new experts are projected away from what is merged already."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.layers import Layer
from merge_lib.ops.shares import share_of_mass
from merge_lib.ops.sums import inner_product
from merge_lib.registry import SharedState, merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import Fraction
from merge_lib.working_set import WorkingSet


@dataclass(frozen=True)
class State:
    """The sum of the projected task vectors, λ_t·Δ_t in the paper's words; None before the first expert."""

    total: Float[Tensor, " *shape"] | None = None


@dataclass(frozen=True)
class Shared:
    """Norms over all tensors of the model.

    Attributes:
        norms: of each task vector, in the order of the experts.
        total_norm: of the sum of the projected task vectors.
    """

    norms: tuple[float, ...] = ()
    total_norm: float = 0.0

    @property
    def factor(self) -> float:
        """1/λ_t: what gives the sum the mean norm of the task vectors; 0 where the sum is 0."""
        mean = math.fsum(self.norms) / max(len(self.norms), 1)
        return mean / self.total_norm if self.total_norm > 0 else 0.0


def init(base: Tensor | None) -> State:  # noqa: ARG001 -- the engine subtracts the base
    """No expert yet."""
    return State()


def settle(shared: Shared, sums: Float[Tensor, " 2"]) -> Shared:
    """The norms once all tensors are folded in."""
    added, total = sums.sqrt().tolist()
    return Shared((*shared.norms, added), total)


def read(state: State, shared: Shared) -> Float[Tensor, " *shape"]:
    """The merged task vector, Δ_t."""
    return state.total * shared.factor  # type: ignore[operator]


@merge_method(
    name="opcm",
    title="OPCM",
    paper="https://arxiv.org/abs/2501.09522",
    needs_base=True,
    order_free=False,
    scope="model",
    works_on="tensor",
    init=init,
    shared=SharedState(Shared, settle, read),
    working_set=WorkingSet(stacks=0.0, tensors=13.5),
)
def opcm(
    state: State,
    task_vector: Float[Tensor, " *shape"],
    shared: Shared,  # noqa: ARG001 -- the sum needs no norms
    layer: Layer,
    *,
    share: Fraction = 0.5,
    trail: Trail = NO_TRAIL,
) -> tuple[State, Float[Tensor, " 2"]]:
    """The sum of projected task vectors with the mean norm of the task vectors.

    Δ_{t−1} = UΣVᵀ per linear weight;  A = UᵀτV with diag(A) and A[:k, :k] set to 0;  τ' = UAVᵀ, elsewhere
    τ' = τ;  Δ_t = (λ_{t−1}Δ_{t−1} + τ')/λ_t with λ_t = ‖λ_{t−1}Δ_{t−1} + τ'‖ / mean_{i≤t}‖τ_i‖ over the whole model.

    Scope: whole model; norms of all tensors join the merge at its end. The state is one tensor and a list of norms.
    Variant: k is the number of leading singular values whose sum, with that of all before, is at most α of
        the total (α the share), so the value that crosses α is not counted: Σ = (3, 1) and α = 0.5 give k = 0. The
        matrices packed in a fused query, key and value are projected each by itself. Only what is removed is
        computed, τ' = τ − U(removed)Vᵀ, from the thin decomposition; the other columns of U and V play no part.
    Differs from the paper: α = 1 gives k = the rank (the authors' code gives 0). Singular values below the
        largest times the longer side times the dtype's rounding unit are taken as 0, and nothing is removed along
        their vectors, which are arbitrary. Where the sum of all is 0, so is the merge.
    Reference: Tang et al., "Merging Models on the Fly Without Retraining", NeurIPS 2025, arXiv:2501.09522.

    Args:
        state: what the experts before left.
        task_vector: [*shape], floating; the new expert − base.
        shared: the norms so far; the sum needs none of them.
        layer: tells linear weights from other tensors.
        share: of the sum of singular values that spans what new experts are kept out of, in [0, 1].
        trail: told what the step removed.

    Returns:
        The state, and float64 [2]: the squared norms of the task vector and of the sum.
    """
    projected = task_vector
    if state.total is not None and layer.role == "linear" and task_vector.numel():
        packed = (tensor.chunk(layer.parts, layer.parts_axis) for tensor in (state.total, task_vector))
        parts = [_project(merged, part, share) for merged, part in zip(*packed, strict=True)]
        projected = torch.cat(parts, layer.parts_axis)
    trail.note("energy removed", lambda: share_of_mass((task_vector - projected)[None], task_vector[None])[0])
    total = projected.clone() if state.total is None else state.total + projected
    squares = [inner_product(tensor, tensor) for tensor in (task_vector, total)]
    return State(total), torch.tensor(squares, dtype=torch.float64)


def _project(
    merged: Float[Tensor, "out in"], task_vector: Float[Tensor, "out in"], share: float
) -> Float[Tensor, "out in"]:
    """τ' of one matrix."""
    left, values, right = torch.linalg.svd(merged, full_matrices=False)  # [out, r], [r], [r, in]
    rank = _rank(values, max(merged.shape))
    left, values, right = left[:, :rank], values[:rank], right[:rank]
    spanned = _leading(values, share)
    mixed = left.T @ task_vector @ right.T  # [rank, rank]
    removed = torch.diag(mixed.diagonal())
    removed[:spanned, :spanned] = mixed[:spanned, :spanned]
    return task_vector - left @ removed @ right


def _rank(values: Float[Tensor, " r"], longer: int) -> int:
    """How many singular values are not 0 to rounding."""
    return int((values > values[0] * longer * torch.finfo(values.dtype).eps).sum())


def _leading(values: Float[Tensor, " r"], share: float) -> int:
    """k: how many of the largest make up at most that share of the sum."""
    sums = values.double().cumsum(0)
    return int((sums <= share * sums[-1]).sum()) if len(sums) else 0
