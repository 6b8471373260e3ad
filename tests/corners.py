"""A workload whose inputs can find their models: points near the corners of a space, answered by cosines."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from merge_lib.checkpoints import read_state_dict, write_state_dict
from merge_lib.workloads import Progress, Split, TrainReport, Workload, WorkloadSettings

SIZE, POINTS = 12, 60


class CornersSettings(WorkloadSettings):
    """What a study says under `workload:`."""

    routes: ClassVar[bool] = True
    name: Literal["corners"]
    noise: float = 0.5

    def task_snapshots(self, tasks: Sequence[str]) -> tuple[str, ...]:
        """None: the points are drawn."""
        return ()

    def create(self, *, tasks: Sequence[str], data: Path) -> Workload:
        """The workload itself."""
        return Corners(self, tuple(tasks))


@dataclass(frozen=True)
class Lens:
    """A model: matrices that points and corners go through."""

    of: "Corners"
    tensors: Mapping[str, Tensor]

    def inputs(self, task: str, *, split: Split, rows: Tensor | None = None) -> Tensor:
        """[n, d], of length 1."""
        points = self.of.points(task, split)
        return normalize((points if rows is None else points[rows]) @ self.tensors["points"], dim=1)

    def classes(self, task: str) -> Tensor:
        """[2, d], of length 1."""
        place = 2 * self.of.tasks.index(task)
        return normalize(self.tensors["corners"][place : place + 2], dim=1)


class Corners:
    """Task k tells corner 2k from corner 2k + 1."""

    def __init__(self, settings: CornersSettings, tasks: tuple[str, ...]) -> None:
        self.settings, self.tasks = settings, tasks
        self.chance = (0.5,) * len(tasks)

    def labels(self, task: str, *, split: Split) -> Tensor:
        """[n]."""
        return torch.arange(POINTS) % 2

    def own_classes(self, task: str) -> Tensor:
        """Both."""
        return torch.arange(2)

    def points(self, task: str, split: Split) -> Tensor:
        """[n, d], around a task's two corners."""
        place = self.tasks.index(task)
        generator = torch.Generator().manual_seed(place + 100 * len(split))
        corners = torch.eye(SIZE)[2 * place + self.labels(task, split=split)]
        return corners + self.settings.noise * torch.randn(POINTS, SIZE, generator=generator)

    def encoder(self, tensors: Mapping[str, Tensor]) -> Lens:
        """The model."""
        return Lens(self, tensors)

    def pretrain(
        self,
        out: Path,
        *,
        seed: int,
        lineage: dict[str, Any],
        progress: Progress | None = None,
        partial: Path | None = None,
    ) -> TrainReport:
        """A base that sees corners through some noise."""
        generator = torch.Generator().manual_seed(seed)
        blurred = {
            name: torch.eye(SIZE) + 0.2 * torch.randn(SIZE, SIZE, generator=generator)
            for name in ("points", "corners")
        }
        return self._write(out, blurred, lineage, [], time.perf_counter())

    def fine_tune(
        self,
        start: Path,
        tasks: Sequence[str],
        out: Path,
        *,
        seed: int,
        lineage: dict[str, Any],
        progress: Progress | None = None,
        partial: Path | None = None,
    ) -> TrainReport:
        """Gradient descent on the cosines."""
        started, losses = time.perf_counter(), []
        tensors = {name: one.requires_grad_(True) for name, one in read_state_dict(start).items()}
        optimizer = torch.optim.SGD(list(tensors.values()), lr=0.05)
        for _ in range(10):
            lens = self.encoder(tensors)
            loss = sum(
                cross_entropy(
                    10 * lens.inputs(task, split="train") @ lens.classes(task).T,
                    self.labels(task, split="train"),
                )
                for task in tasks
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        trained = {name: one.detach() for name, one in tensors.items()}
        return self._write(out, trained, lineage, losses, started)

    def evaluate(
        self, tensors: Mapping[str, Tensor], tasks: Sequence[str], *, split: Split = "test"
    ) -> dict[str, float]:
        """Accuracy, a task's own two corners as answers."""
        lens = self.encoder(tensors)
        said = {task: lens.inputs(task, split=split) @ lens.classes(task).T for task in tasks}
        return {
            task: float((one.argmax(1) == self.labels(task, split=split)).double().mean())
            for task, one in said.items()
        }

    def _write(
        self,
        out: Path,
        tensors: dict[str, Tensor],
        lineage: dict[str, Any],
        losses: list[float],
        started: float,
    ) -> TrainReport:
        made = write_state_dict(out, tensors, lineage=lineage)
        elapsed_s = time.perf_counter() - started
        return TrainReport(out, made.digest, made.size_bytes, elapsed_s, len(losses), losses, 0.5)
