"""A small network and words to learn: examples have different numbers of words, over which the loss is a mean."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from merge_lib.workloads.training.config import TrainingConfig
from merge_lib.workloads.training.loop import Trained, train

WIDTH, WORDS, CLASSES = 6, 4, 3


class Network(nn.Module):
    """Words to classes, each by itself; `dropout` is drawn from torch's own generator."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, 16)
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Linear(16, CLASSES)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, words):
        if self.training:
            self.seen += len(words)
        return self.second(self.dropout(self.first(words).relu()))


class WordLesson:
    """48 examples of 1 to 4 words; `most` is how many of them fit into memory at once."""

    def __init__(self, size: int = 48, most: int | None = None, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(1)
        self.size, self.most = size, most
        self.words = torch.randn(size, WORDS, WIDTH, generator=generator).to(dtype)
        self.targets = self.words[..., :CLASSES].argmax(-1)
        lengths = torch.arange(size) % WORDS + 1
        self.targets[torch.arange(WORDS) >= lengths[:, None]] = -100
        self.largest = 0

    def batch(self, rows, generator):
        noise = 0.01 * torch.randn(len(rows), WORDS, WIDTH, generator=generator).to(self.words.dtype)
        return {"words": self.words[rows] + noise, "targets": self.targets[rows]}

    def loss(self, model, batch):
        n = len(batch["targets"])
        if self.most is not None and n > self.most:
            torch.empty(n * 2**56)  # bytes that no machine has: the allocator refuses
        self.largest = max(self.largest, n)
        logits = model(batch["words"]).to(self.words.dtype)
        return functional.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())

    def units(self, batch):
        return int((batch["targets"] != -100).sum())


def network(dropout: float = 0.0) -> Network:
    """The same values every time."""
    model = Network(dropout)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return model


@pytest.fixture(name="network")
def _network() -> Callable[..., Network]:
    return network


@pytest.fixture
def lesson() -> Callable[..., WordLesson]:
    return WordLesson


@pytest.fixture
def fit() -> Callable[..., Trained]:
    """Trains a model: 18 steps of 8 examples, if nothing else is said."""

    def run(model, lesson=None, *, seed=0, validate=None, saved=None, progress=None, **settings) -> Trained:
        config = TrainingConfig(**({"epochs": 3, "batch_size": 8, "learning_rate": 1e-2} | settings))
        generator = torch.Generator().manual_seed(seed)
        lesson = lesson or WordLesson()
        more = {"validate": validate, "saved": saved, "progress": progress}
        return train(model, lesson, config, generator=generator, **more)

    return run


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether all values are the very same."""
    mine, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.fixture(name="same")
def _same() -> Callable[[nn.Module, nn.Module], bool]:
    return same
