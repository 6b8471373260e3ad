"""Early stopping: looks at a validation value, and the weights that were best."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from merge_lib.workloads.training.config import EarlyStopping
from merge_lib.workloads.training.states import State, copy_into, joined, part_of
from merge_lib.workloads.training.team import Team

Validate = Callable[[nn.Module], float]
"""The validation value of a model, which is in evaluation mode: the higher, the better."""


class Watch:
    """Over one training.

    Args:
        settings: when it is to end.
        validate: what is looked at.
        values: the tensors of the model that change, by name.
    """

    def __init__(self, settings: EarlyStopping, validate: Validate, values: Mapping[str, Tensor]) -> None:
        self._settings, self._validate, self._values = settings, validate, values
        self._best, self._weights, self._waited = -float("inf"), self._copies(), 0

    def look(self, model: nn.Module) -> bool:
        """Whether the training is to end here."""
        model.eval()
        with torch.no_grad():
            value = Team.present().agree(self._validate(model))
        model.train()
        if value > self._best + self._settings.min_delta:
            self._best, self._weights, self._waited = value, self._copies(), 0
        else:
            self._waited += 1
        return self._waited >= self._settings.patience

    def restore_best(self) -> None:
        """Give the model the weights that were best."""
        copy_into(self._values, self._weights)

    def state_dict(self) -> State:
        """What the next look depends on."""
        numbers = {
            "best": torch.tensor(self._best, dtype=torch.float64),
            "waited": torch.tensor(self._waited),
        }
        return joined({"number": numbers, "weight": self._weights})

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from there."""
        numbers = part_of(state, "number")
        self._best, self._waited = float(numbers["best"]), int(numbers["waited"])
        self._weights = part_of(state, "weight")

    def _copies(self) -> State:
        return {name: value.detach().to("cpu", copy=True) for name, value in self._values.items()}
