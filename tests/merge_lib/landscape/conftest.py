"""Models whose losses are known in closed form, in float64."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from merge_lib.probe import Batch

COUNT = 7  # examples of each task


class Squares:
    """Linear regression: the cross-entropy of its logits is exactly the squared error, so surfaces are quadratic.

    Two logits (0, log(exp(q) − 1)) have the cross-entropy q for the first; the second is computed as
    q + log(1 − exp(−q)). An example is right where q < log 2.
    """

    def __init__(self, width: int = 3) -> None:
        self.width = width
        self.calls = 0

    def data(self, task: str) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(sum(map(ord, task)))
        inputs = torch.randn(COUNT, self.width, generator=generator, dtype=torch.float64)
        return inputs, torch.randn(COUNT, generator=generator, dtype=torch.float64)

    def module(self, state):
        module = nn.Linear(self.width, 1, bias=False).double()
        module.load_state_dict({"weight": state["weight"]})
        return module.eval()

    def batches(self, task, *, split, count, seed, size) -> Iterator[Batch]:
        inputs, targets = self.data(task)
        order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(seed))[:count]
        for places in order.split(size):
            yield Batch((inputs[places], targets[places]), torch.zeros(len(places), dtype=torch.int64))

    def logits(self, model, batch, task):
        self.calls += 1
        inputs, targets = batch.inputs
        squares = (model(inputs)[:, 0] - targets).square()
        return torch.stack([torch.zeros_like(squares), squares + (-(-squares).expm1()).log()], dim=1)

    def loss(self, weight: Tensor, task: str) -> float:
        """In closed form."""
        inputs, targets = self.data(task)
        return float((inputs @ weight.reshape(-1) - targets).square().mean())


class Classes(Squares):
    """Softmax regression on three classes: a convex loss."""

    def module(self, state):
        module = nn.Linear(self.width, 3).double()
        module.load_state_dict(dict(state))
        return module.eval()

    def batches(self, task, *, split, count, seed, size) -> Iterator[Batch]:
        inputs, _ = self.data(task)
        yield Batch(inputs, torch.arange(COUNT) % 3)

    def logits(self, model, batch, task):
        return model(batch.inputs)


class Stubborn(Squares):
    """Its logits look at a number, which `vmap` refuses."""

    def logits(self, model, batch, task):
        logits = super().logits(model, batch, task)
        return logits if float(logits.sum()) > -1e300 else logits * 0


@pytest.fixture
def squares() -> Squares:
    return Squares()


@pytest.fixture
def classes() -> Classes:
    return Classes()


@pytest.fixture
def stubborn() -> Stubborn:
    return Stubborn()


@pytest.fixture
def draw():
    """State dicts with random float64 values."""

    def make(seed: int, **shapes: tuple[int, ...]) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {
            name: torch.randn(shape, generator=generator, dtype=torch.float64)
            for name, shape in (shapes or {"weight": (1, 3)}).items()
        }

    return make
