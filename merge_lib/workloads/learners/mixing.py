"""Training on batches into which examples from memory are mixed."""

import math

import torch
from torch import Tensor, nn

from merge_lib.workloads.learners.classroom import Classroom, Course, Learned
from merge_lib.workloads.learners.replay import Replay
from merge_lib.workloads.training.lessons import Batch, Lesson
from merge_lib.workloads.training.loop import train


class Mixed:
    """A task's examples, each batch of which brings some from memory along.

    Args:
        lesson: the task's examples, then those in memory.
        size: how many are the task's.
        mix: examples from memory for each of the task's.
    """

    def __init__(self, lesson: Lesson, size: int, mix: float) -> None:
        self.lesson, self.size, self.mix = lesson, size, mix

    def batch(self, rows: Tensor, generator: torch.Generator) -> Batch:
        """These of the task's examples, then others drawn from memory."""
        others = _drawn(self.lesson.size - self.size, math.ceil(self.mix * len(rows)), generator)
        return self.lesson.batch(torch.cat([rows, self.size + others]), generator)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean over all of them."""
        return self.lesson.loss(model, batch)

    def units(self, batch: Batch) -> int:
        """Of all of them."""
        return self.lesson.units(batch)


def learn(room: Classroom, course: Course, settings: Replay) -> Learned:
    """Train as experts are, on mixed batches."""
    own, memory = course.own(room), course.memory(room, settings)
    trained = train(
        room.model,
        Mixed(room.lesson([*own, *memory]), len(own), settings.mix),
        room.config,
        generator=torch.Generator().manual_seed(course.seed),
        trained=room.trained,
        validate=room.validate(course.task),
        saved=course.saved,
        progress=course.progress,
    )
    return Learned(trained, memory)


def _drawn(count: int, size: int, generator: torch.Generator) -> Tensor:
    """So many places of a memory; none comes again before all have come."""
    turns = [torch.randperm(count, generator=generator) for _ in range(math.ceil(size / count))]
    return torch.cat(turns)[:size]
