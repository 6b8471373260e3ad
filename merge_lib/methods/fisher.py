"""Fisher merging: every weight the mean of the experts, weighted by how much each of them needs it."""

from math import isfinite

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.errors import MethodInputError, SpecError
from merge_lib.learned import Observed
from merge_lib.ops.sums import per_row, sum_rows
from merge_lib.registry import merge_method
from merge_lib.trail import NO_TRAIL, Trail
from merge_lib.types import Positive
from merge_lib.working_set import WorkingSet


@merge_method(
    name="fisher",
    title="Fisher merging",
    paper="https://arxiv.org/abs/2111.09832",
    needs_base=False,
    order_free=True,
    data="unlabelled",
    observation="fisher",
    working_set=WorkingSet(stacks=9.2, tensors=2.5),
)
def fisher(
    experts: Float[Tensor, " n *shape"],
    observed: Observed | None,
    *,
    floor: Positive = 1e-6,
    weights: str = "",
    trail: Trail = NO_TRAIL,
) -> Float[Tensor, " *shape"]:
    """The mean of the experts, entry by entry weighted by the diagonal of their Fisher information.

    θ* = Σ_t λ_t F̂_t ⊙ θ_t / Σ_t λ_t F̂_t with F̂_t = max(F_t/‖F_t‖, ε); ‖F_t‖ is the 2-norm over the expert's whole
    model, ε the floor, λ_t the weight.

    Scope: per tensor; the norms are the observation's.
    Variant: the paper's, with the diagonal F_t = E_x Σ_y p(y|x) (∂ log p(y|x)/∂θ)² of single examples, or
        whatever calibration collected. Where no data reached a tensor all F̂_t are alike, and so they are for an
        expert and another whose Fisher information is zero everywhere: the weighted mean is left.
    Differs from the paper: nothing in the merge. The paper tunes λ on validation data; equal weights are the default.
        The floor of 1e-6 is that of the authors' code.
    Reference: Matena & Raffel, "Merging Models with Fisher-Weighted Averaging", NeurIPS 2022, arXiv:2111.09832,
        section 3.

    Args:
        experts: [n, *shape], floating; one row per expert, in spec order.
        observed: each expert's Fisher information; None where no data reached the tensor.
        floor: the least of a normalised Fisher information; above 0.
        weights: a number of at least 0 for each expert, with commas between, such as "1, 0.5"; empty for equal ones.
        trail: takes whose weights the result is made of.

    Returns:
        [*shape], dtype of experts.

    Raises:
        MethodInputError: the Fisher information does not fit the tensor.
        SpecError: the weights are not one number of at least 0 for each expert.
    """
    factors = torch.tensor(_read_weights(weights, len(experts)), dtype=torch.float64)
    information = torch.ones(experts.shape, dtype=torch.float64)
    if observed is not None:
        _check(observed, experts)
        information = _normalised(observed).clamp(min=floor)
    powers = information * per_row(factors, experts)
    total = sum_rows(powers)
    moved = sum_rows(powers * (experts - experts[0])) / total  # exact where the experts agree
    trail.note("reached by data", lambda: torch.tensor(float(observed is not None)))
    trail.note("share of the weight", lambda: _means(powers / total))
    trail.note("share at the floor", lambda: _means(information <= floor))
    return experts[0] + moved.to(experts.dtype)


def _read_weights(text: str, count: int) -> list[float]:
    """The numbers in the text, or ones."""
    if not text.strip():
        return [1.0] * count
    try:
        weights = [float(word) for word in text.split(",")]
    except ValueError:
        weights = []
    if len(weights) != count or not all(isfinite(x) and x >= 0 for x in weights) or not any(weights):
        raise SpecError(
            f"Parameter 'weights' of method 'fisher' is '{text}', but must be {count} numbers of at least 0, not all 0"
            ", one for each expert in spec order, with commas between. Change it in `params`, or leave it out."
        )
    return weights


def _check(observed: Observed, experts: Tensor) -> None:
    """Refuse Fisher information that is not of this tensor."""
    count, shape = len(experts), experts.shape[1:]
    problems = [
        f"{what} of {got} experts"
        for what, got in (("values", len(observed.values)), ("norms", len(observed.norms)))
        if got != count
    ]
    for place, value in enumerate(observed.values):
        if value.shape != shape:
            problems.append(f"that of expert {place} has the shape {tuple(value.shape)}")
        elif not torch.isfinite(value).all() or (value < 0).any():
            problems.append(f"that of expert {place} holds values that are negative, NaN or infinite")
    if problems:
        raise MethodInputError(
            f"Fisher merging needs for each of {count} experts a norm and values of the shape {tuple(shape)}, "
            f"finite and not negative; got: {'; '.join(problems)}. "
            "Collect the observations again, for these experts in this order."
        )


def _normalised(observed: Observed) -> Tensor:
    """F_t/‖F_t‖ in float64; zeros where the norm is 0."""
    rows = [
        value.double() / norm if norm > 0 else torch.zeros_like(value, dtype=torch.float64)
        for value, norm in zip(observed.values, observed.norms, strict=True)
    ]
    return torch.stack(rows)


def _means(values: Tensor) -> Tensor:
    """Over each expert's entries; 0 where there are none."""
    flat = values.double().reshape(len(values), -1)
    return flat.sum(dim=1) / max(flat.shape[1], 1)
