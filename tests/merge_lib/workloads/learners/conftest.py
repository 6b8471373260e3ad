"""A room without a workload: two tasks of telling points apart, through a low-rank adapter on a fixed matrix."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from merge_lib.checkpoints import read_state_dict
from merge_lib.recurrent import ReplayItem
from merge_lib.workloads.learners.classroom import Course
from merge_lib.workloads.training.config import TrainingConfig

INPUTS, CLASSES, RANK = 6, 3, 2


class LowRank(nn.Module):
    def __init__(self, generator):
        super().__init__()
        self.register_buffer("weight", 0.1 * torch.randn(CLASSES, INPUTS, generator=generator))
        self.down = nn.Parameter(0.5 * torch.randn(RANK, INPUTS, generator=generator))
        self.up = nn.Parameter(torch.zeros(CLASSES, RANK))

    def folded(self):
        return self.weight + self.up @ self.down

    def forward(self, points):
        return points @ self.folded().T


@dataclass
class Points:
    points: torch.Tensor
    targets: torch.Tensor
    seen: list = field(default_factory=list)

    @property
    def size(self):
        return len(self.targets)

    def batch(self, rows, generator):
        self.seen.append(rows.tolist())
        return {"points": self.points[rows], "targets": self.targets[rows]}

    def loss(self, model, batch):
        return functional.cross_entropy(model(batch["points"]), batch["targets"])

    def units(self, batch):
        return len(batch["targets"])


class Room:
    def __init__(self, config, size=40, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.config, self.model = config, LowRank(generator)
        self.trained = dict(self.model.named_parameters())
        self.data, self.lessons = {}, []
        for task in ("one", "two"):
            centres = 2.0 * torch.randn(CLASSES, INPUTS, generator=generator)
            labels = torch.arange(size) % CLASSES
            self.data[task] = (centres[labels] + torch.randn(size, INPUTS, generator=generator), labels)

    def labels(self, task):
        return self.data[task][1].tolist()

    def lesson(self, items):
        points, targets = (
            torch.stack([self.data[item.task][part][item.index] for item in items]) for part in (0, 1)
        )
        self.lessons.append(Points(points, targets))
        return self.lessons[-1]

    def held_out(self, task, count):
        return Points(*(part[-count:] for part in self.data[task]))

    def size_of(self, items):
        return 25 * len(items)

    def validate(self, task):
        points, targets = self.data[task]
        return lambda model: float((model(points).argmax(1) == targets).float().mean())

    def tensors(self):
        return {"weight": self.model.folded()}

    @property
    def downs(self):
        return {"weight": self.model.down}

    def matrices(self, checkpoint):
        return read_state_dict(checkpoint)

    def loss_on(self, task):
        lesson = self.lesson([ReplayItem(task, place) for place in range(len(self.labels(task)))])
        with torch.no_grad():
            return float(lesson.loss(self.model, lesson.batch(torch.arange(lesson.size), None)))

    def values(self):
        return {name: one.detach().clone() for name, one in self.trained.items()}


@pytest.fixture
def make_room() -> Callable[..., Room]:
    def make(size=40, **config):
        given = {"steps": 20, "batch_size": 8, "learning_rate": 1e-2, "warmup": 0.0} | config
        return Room(TrainingConfig(**given), size)

    return make


@pytest.fixture
def make_course() -> Callable[..., Course]:
    def make(*, checkpoints=(Path("unread"),), seed=0, **given):
        return Course("two", ("one",), tuple(checkpoints), seed, **given)

    return make
