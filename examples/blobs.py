"""A workload in one file: softmax regression on points of the plane, one blob a class."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from merge_lib.checkpoints import read_state_dict, write_state_dict
from merge_lib.workloads import Progress, Split, TrainReport, Workload, WorkloadSettings


class BlobSettings(WorkloadSettings):
    """What a study says under `workload:`; `name` is the word that chooses this workload."""

    name: Literal["blobs"]
    spread: Annotated[float, Field(gt=0)] = 0.4
    steps: Annotated[int, Field(ge=1)] = 40

    def task_snapshots(self, tasks: Sequence[str]) -> tuple[str, ...]:
        """None: the points are drawn, not read. Most workloads leave this out: a snapshot for each task."""
        return ()

    def create(self, *, tasks: Sequence[str], data: Path) -> Workload:
        """The workload itself."""
        return Blobs(self, tuple(tasks))


class Blobs:
    """Task k tells class 2k from class 2k + 1; the model is one linear layer for all classes."""

    def __init__(self, settings: BlobSettings, tasks: tuple[str, ...]) -> None:
        self.settings, self.tasks = settings, tasks
        self.chance = (1 / (2 * len(tasks)),) * len(tasks)

    def points(self, task: str, seed: int) -> tuple[Tensor, Tensor]:
        """200 points [200, 2] on a circle of blobs, and their classes [200]."""
        generator = torch.Generator().manual_seed(seed)
        labels = 2 * self.tasks.index(task) + torch.arange(200) % 2
        angles = labels * torch.pi / len(self.tasks)
        centres = torch.stack([angles.cos(), angles.sin()], dim=1)  # [200, 2]
        return centres + self.settings.spread * torch.randn(200, 2, generator=generator), labels

    def pretrain(
        self,
        out: Path,
        *,
        seed: int,
        lineage: dict[str, Any],
        progress: Progress | None = None,
        partial: Path | None = None,
    ) -> TrainReport:
        """A base that knows nothing: small random weights."""
        generator = torch.Generator().manual_seed(seed)
        weight = 0.01 * torch.randn(2 * len(self.tasks), 2, generator=generator)
        return self._write(out, {"weight": weight}, lineage, [], time.perf_counter())

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
        """Gradient descent on the tasks' points together."""
        started, losses = time.perf_counter(), []
        weight = read_state_dict(start)["weight"].requires_grad_(True)
        pairs = [self.points(task, seed) for task in tasks]
        points, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        optimizer = torch.optim.SGD([weight], lr=1.0)
        for step in range(self.settings.steps):
            loss = torch.nn.functional.cross_entropy(points @ weight.T, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            if progress is not None:
                progress(step + 1, self.settings.steps)
        return self._write(out, {"weight": weight.detach()}, lineage, losses, started)

    def evaluate(
        self, tensors: Mapping[str, Tensor], tasks: Sequence[str], *, split: Split = "test"
    ) -> dict[str, float]:
        """Accuracy on fresh points, all classes allowed as answers."""
        accuracies = {}
        for task in tasks:
            points, labels = self.points(task, seed=1_000 if split == "test" else 2_000)
            accuracies[task] = float(((points @ tensors["weight"].T).argmax(1) == labels).float().mean())
        return accuracies

    def _write(
        self,
        out: Path,
        tensors: dict[str, Tensor],
        lineage: dict[str, Any],
        losses: list[float],
        started: float,
    ) -> TrainReport:
        written = write_state_dict(out, tensors, lineage=lineage)
        accuracy = sum(self.evaluate(tensors, self.tasks, split="validation").values()) / len(self.tasks)
        elapsed_s = time.perf_counter() - started
        return TrainReport(out, written.digest, written.size_bytes, elapsed_s, len(losses), losses, accuracy)
