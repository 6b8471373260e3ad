"""A probe whose model adds a bias to one-hot examples, so that answers can be read off."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from merge_lib.probe import Batch

LABELS = {"letters": [0, 0, 1, 1, 2], "signs": [2, 1, 0]}


class Biased(nn.Module):
    """Logits [b, 3]: the right answer leads by 1, plus what the weights say of each example."""

    def __init__(self, shift: Tensor) -> None:
        super().__init__()
        self.shift = nn.Parameter(shift)  # [examples, 3]

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        places, labels = inputs
        return nn.functional.one_hot(labels, 3) + self.shift[places]


@dataclass
class ToyProbe:
    """In the order of `torch.randperm`; examples lie at their numbers."""

    tells_places: bool = True
    largest: int = 2  # examples of a batch, whatever is asked

    def module(self, state) -> nn.Module:
        return Biased(state["shift"]).eval()

    def batches(self, task, *, split, count, seed, size) -> Iterator[Batch]:
        assert split == "test"
        labels = torch.tensor(LABELS[task])
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:count]
        for places in order.split(min(size, self.largest)):
            given = places if self.tells_places else None
            yield Batch((places, labels[places]), labels[places], places=given)

    def logits(self, model, batch, task) -> Tensor:
        return model(batch.inputs)


class Pictures(ToyProbe):
    """Each example is a picture of one grey: its number."""

    def picture(self, inputs, row) -> np.ndarray:
        return np.full((4, 6), int(inputs[0][row]), np.uint8)

    def outputs(self, task) -> tuple[str, ...]:
        return ("a", "b", "c")


class Texts(ToyProbe):
    def text(self, inputs, row) -> str:
        return f"example {int(inputs[0][row])} " + "x" * 500


def state(**shifts: list[float]) -> dict[str, Tensor]:
    """A model that is right but where `at_<example>` shifts its logits."""
    shift = torch.zeros(5, 3)
    for name, values in shifts.items():
        shift[int(name.removeprefix("at_"))] = torch.tensor(values)
    return {"shift": shift}


@pytest.fixture
def toy() -> ToyProbe:
    return ToyProbe()


@pytest.fixture
def pictures() -> Pictures:
    return Pictures()


@pytest.fixture
def texts() -> Texts:
    return Texts()


@pytest.fixture(name="state")
def _state():
    return state
