"""How important each entry of an adapter is to what a learner learns, as running means over its steps."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.errors import MethodInputError
from merge_lib.recurrent.recurrence import Score, Sensitivity
from merge_lib.recurrent.tensors import all_finite, check_alike, widened
from merge_lib.types import StateDict


@dataclass(frozen=True)
class Importance:
    """Running means over the steps of one learner; float32, or float64 where the parameters are.

    Attributes:
        mean: Ī, of the sensitivity, by parameter name.
        uncertainty: Ū, of the sensitivity's distance from its mean.
        updates: steps that were counted.
        skipped: steps whose gradient was not finite.
    """

    mean: StateDict
    uncertainty: StateDict
    updates: int = 0
    skipped: int = 0

    @property
    def steps(self) -> int:
        """Of the learner, counted or not."""
        return self.updates + self.skipped


def begin_importance(parameters: StateDict) -> Importance:
    """Before the first step: zeros.

    Args:
        parameters: the trainable tensors, by name.
    """
    check_alike(parameters=parameters)
    zeros = {name: torch.zeros_like(widened(tensor)) for name, tensor in parameters.items()}
    return Importance(zeros, zeros)


def sensitivity(
    parameter: Float[Tensor, " *shape"],
    gradient: Float[Tensor, " *shape"],
    variant: Sensitivity = "magnitude",
) -> Float[Tensor, " *shape"]:
    """I, of one tensor: |θg|, (θg)², or |θg − ½(θg)²|.

    Args:
        parameter: θ, [*shape].
        gradient: g, of the loss.
        variant: "magnitude", "square" or "second_order".

    Returns:
        [*shape], not negative.
    """
    product = widened(parameter) * widened(gradient)
    if variant == "magnitude":
        return product.abs()
    return product.square() if variant == "square" else (product - 0.5 * product.square()).abs()


def update_importance(
    state: Importance,
    parameters: StateDict,
    gradients: StateDict,
    *,
    variant: Sensitivity = "magnitude",
    decay: float = 0.85,
    uncertainty_decay: float = 0.85,
) -> Importance:
    """The running means after one more step of the learner.

    Ī ← β₁Ī + (1 − β₁)I, then Ū ← β₂Ū + (1 − β₂)|I − Ī|.

    Variant: as in the authors' code: parameters *after* the optimiser's step, the clipped gradient from before it;
        no correction for the start at 0; all parameters are left alone for a step that has a gradient that is
        not finite.

    Args:
        state: before the step; not written to.
        parameters: the trainable tensors, by name.
        gradients: of the same names and shapes; a tensor that got none stands here with zeros.
        variant: of the sensitivity.
        decay: β₁.
        uncertainty_decay: β₂.

    Returns:
        The state after the step.

    Raises:
        MethodInputError: names or shapes differ, or a parameter is not finite.
    """
    check_alike(importance=state.mean, parameters=parameters, gradients=gradients)
    if not all_finite(gradients):
        return replace(state, skipped=state.skipped + 1)
    mean, uncertainty = {}, {}
    for name, before in state.mean.items():
        value = sensitivity(parameters[name], gradients[name], variant)
        mean[name] = decay * before + (1 - decay) * value
        distance = (value - mean[name]).abs()
        uncertainty[name] = uncertainty_decay * state.uncertainty[name] + (1 - uncertainty_decay) * distance
    _check_finite(mean)
    return Importance(mean, uncertainty, state.updates + 1, state.skipped)


def scores_of(state: Importance, kind: Score = "product") -> dict[str, Tensor]:
    """S = Ī·Ū, or Ī alone, by parameter name.

    Args:
        state: of one learner.
        kind: "product" or "mean".
    """
    if kind == "mean":
        return dict(state.mean)
    return {name: mean * state.uncertainty[name] for name, mean in state.mean.items()}


def _check_finite(mean: StateDict) -> None:
    bad = sorted(name for name, tensor in mean.items() if not torch.isfinite(tensor).all())
    if bad:
        raise MethodInputError(
            f"The importance of {', '.join(repr(name) for name in bad)} left the finite numbers although the gradients "
            "are finite, so parameters are not, or are very large. Go back to an earlier state of the training, "
            "and lower its learning rate."
        )
