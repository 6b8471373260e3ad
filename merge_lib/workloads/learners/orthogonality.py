"""Training of an adapter that is held away from what earlier tasks changed.

Legend: o outputs and i inputs of a matrix, r rank.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from merge_lib.errors import SpecError
from merge_lib.workloads.learners.classroom import Adapted, Classroom, Course, Learned
from merge_lib.workloads.learners.o_lora import OLora
from merge_lib.workloads.training.lessons import Batch, Lesson
from merge_lib.workloads.training.loop import train

SPARE = 8  # further rows of a sketch, so that it misses nothing of a row space
LEAST = 1e-3  # of the largest singular value; below is what rounding left


class Apart:
    """A lesson whose loss has the penalty on top.

    Args:
        lesson: the task.
        weight: of the penalty.
        downs: A of each matrix, [r, i].
        spaces: of each matrix an orthonormal basis for each earlier task, one under the other, [n, i].
    """

    def __init__(
        self, lesson: Lesson, weight: float, downs: Mapping[str, nn.Parameter], spaces: Mapping[str, Tensor]
    ) -> None:
        self.lesson, self.weight, self.downs, self.size = lesson, weight, downs, lesson.size
        self.spaces = dict(spaces)

    def batch(self, rows: Tensor, generator: torch.Generator) -> Batch:
        """The lesson's own."""
        return self.lesson.batch(rows, generator)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The lesson's own, and the penalty."""
        return self.lesson.loss(model, batch) + self.weight * self.penalty()

    def units(self, batch: Batch) -> int:
        """The lesson's own."""
        return self.lesson.units(batch)

    def penalty(self) -> Tensor:
        """Σ|V Aᵀ| over all matrices and earlier tasks."""
        parts = []
        for name, down in self.downs.items():
            self.spaces[name] = self.spaces[name].to(down.device)
            parts.append((self.spaces[name] @ down.float().T).abs().sum())
        return torch.stack(parts).sum()


def learn(room: Classroom, course: Course, settings: OLora) -> Learned:
    """Train as experts are, under the penalty."""
    if not isinstance(room, Adapted):
        raise SpecError(
            "O-LoRA trains low-rank adapters, and this model has none. Give the workload LoRA settings."
        )
    lesson = Apart(room.lesson(course.own(room)), settings.weight, room.downs, earlier_spaces(room, course))
    trained = train(
        room.model,
        lesson,
        room.config,
        generator=torch.Generator().manual_seed(course.seed),
        trained=room.trained,
        validate=room.validate(course.task),
        saved=course.saved,
        progress=course.progress,
    )
    return Learned(trained)


def earlier_spaces(room: Adapted, course: Course) -> dict[str, Tensor]:
    """Of each adapted matrix the bases of what each earlier task changed in it, one under the other, [n, i]."""
    ranks = {name: len(down) for name, down in room.downs.items()}
    found: dict[str, list[Tensor]] = {name: [] for name in ranks}
    states = (room.matrices(place) for place in course.checkpoints)
    for before, after in pairwise(states):
        for name, rank in ranks.items():
            found[name].append(row_space(after[name].float() - before[name].float(), rank))
    return {name: stacked(bases, room.downs[name].shape[1]) for name, bases in found.items()}


def row_space(change: Float[Tensor, "o i"], rank: int) -> Float[Tensor, "n i"]:
    """An orthonormal basis of the rows of a matrix of at most that rank; none for a matrix of zeros.

    From a sketch of rank + 8 random mixtures of its rows, which span the same space.
    """
    generator = torch.Generator().manual_seed(0)
    mixtures = torch.randn(min(rank + SPARE, len(change)), len(change), generator=generator)
    _, sizes, basis = torch.linalg.svd(mixtures @ change, full_matrices=False)
    wanted = (sizes > LEAST * sizes[0]) & (torch.arange(len(sizes)) < rank)
    return basis[wanted]


def stacked(bases: Sequence[Tensor], width: int) -> Tensor:
    """One under the other; [0, width] where there is none."""
    return torch.cat([torch.empty(0, width), *bases])
