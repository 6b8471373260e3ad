"""The vision workload: snapshots and settings in, checkpoints and accuracies out."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from merge_lib.checkpoints import read_state_dict
from merge_lib.errors import SpecError, UnknownMethodError, suggest
from merge_lib.probe import Split
from merge_lib.workloads.protocol import Progress, TrainReport
from merge_lib.workloads.training.writing import make_checkpoint
from merge_lib.workloads.vision.classroom import VisionClassroom
from merge_lib.workloads.vision.config import VisionConfig
from merge_lib.workloads.vision.data import Examples, Snapshot, read_snapshot
from merge_lib.workloads.vision.lessons import TrainingSet, lesson_of
from merge_lib.workloads.vision.model import ViT, initial_model
from merge_lib.workloads.vision.models import logits_of, model_of
from merge_lib.workloads.vision.pictures import check_snapshot, scaled
from merge_lib.workloads.vision.probe import VisionProbe
from merge_lib.workloads.vision.scenarios import ScenarioMap


class VisionWorkload:
    """A vision transformer on tasks of small images; every model has the base's head.

    Args:
        config: the study's `workload:` block.
        tasks: names of the task snapshots, in the order of the task sequence.
        data: the folder with `tasks/` and `pretraining/`.

    Raises:
        DataError: a snapshot is missing, unreadable, or does not fit the model.
        SpecError: the task sequence is empty or names a task twice.
    """

    def __init__(self, config: VisionConfig, *, tasks: Sequence[str], data: Path) -> None:
        if not tasks or len(set(tasks)) != len(tasks):
            msg = f"The task sequence {list(tasks)} must name at least one task, each once. Correct `tasks`."
            raise SpecError(msg)
        self.config = config
        self._tasks = tuple(tasks)
        self._snapshots = {task: read_snapshot(data / "tasks" / f"{task}.safetensors") for task in tasks}
        self._pretraining = data / "pretraining" / f"{config.pretraining.snapshot}.safetensors"
        self._glyphs = read_snapshot(self._pretraining)
        check_snapshot(self._glyphs, config.model, {"train", "validation"})
        for snapshot in self._snapshots.values():
            check_snapshot(snapshot, config.model, {"train", "validation", "test"})
        indices = [[self.classes.index(c) for c in s.classes] for s in self._snapshots.values()]
        self._scenario = ScenarioMap(config.scenario, indices)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task names, in the order of the task sequence."""
        return self._tasks

    @property
    def chance(self) -> tuple[float, ...]:
        """Accuracy of guessing on each task: one over the number of outputs."""
        return self._scenario.chance

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The classes of the head: those of the pre-training set, then those that only tasks have."""
        task_classes = (name for snapshot in self._snapshots.values() for name in snapshot.classes)
        return tuple(dict.fromkeys([*self._glyphs.classes, *task_classes]))

    def pretrain(
        self,
        out: Path,
        *,
        seed: int,
        lineage: dict[str, Any],
        progress: Progress | None = None,
        partial: Path | None = None,
    ) -> TrainReport:
        """Train the base from random weights on the pre-training snapshot and write it to `out`."""
        generator = torch.Generator().manual_seed(seed)
        model = initial_model(self.config.model, classes=len(self.classes), generator=generator)
        examples, held_out = self._glyphs.splits["train"], self._glyphs.splits["validation"]
        labels = torch.from_numpy(examples.labels)
        training_set = TrainingSet(self._scaled(examples, self._glyphs), labels, torch.zeros_like(labels))
        images = self._scaled(held_out, self._glyphs)
        return make_checkpoint(
            model,
            lesson_of(training_set, self.config.pretraining),
            self.config.pretraining,
            out,
            lineage=lineage,
            generator=generator,
            validate=lambda model: float(
                (logits_of(model, images).argmax(1).numpy() == held_out.labels).mean()
            ),
            saved=partial,
            progress=progress,
        )

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
        """Train `start` on the tasks' training splits together and write it to `out`.

        Budget: the same number of epochs over the union of the tasks, whether it is one task or several.
        """
        config = self.config.fine_tuning
        lesson = lesson_of(self._training_set(tasks), config, outputs=self._scenario.outputs)
        return make_checkpoint(
            self._model(read_state_dict(start), f"Checkpoint '{start}'"),
            lesson,
            config,
            out,
            lineage=lineage,
            generator=torch.Generator().manual_seed(seed),
            validate=lambda model: float(
                np.mean([self._accuracy(model, task, "validation") for task in tasks])
            ),
            saved=partial,
            progress=progress,
        )

    def classroom(self, start: Path, *, seed: int, is_product: bool = False) -> VisionClassroom:  # noqa: ARG002
        """The model of a checkpoint and the images of all tasks, for learners.

        Raises:
            SpecError: adapters are asked for.
        """
        if is_product:
            raise SpecError(
                "The vision workload trains full weights, but adapters were asked for. Take others."
            )
        return VisionClassroom(
            self._model(read_state_dict(start), f"Checkpoint '{start}'"),
            self.config.fine_tuning,
            snapshots=self._snapshots,
            examples=self._examples,
            outputs=self._scenario.outputs,
            accuracy=lambda model, task: self._accuracy(model, task, "validation"),
        )

    def evaluate(
        self, tensors: Mapping[str, Tensor], tasks: Sequence[str], *, split: Split = "test"
    ) -> dict[str, float]:
        """Accuracy in [0, 1] of the model with these tensors on each of the tasks.

        Raises:
            UnknownMethodError: a task is not in the task sequence.
            CheckpointMismatchError: the tensors are not of this model.
            CheckpointCorruptError: they hold NaN or infinite values.
        """
        for task in tasks:
            self._position(task)
        model = self._model(tensors, "The state dict")
        return {task: self._accuracy(model, task, split) for task in tasks}

    def probe(self) -> VisionProbe:
        """The model and the tasks' images, as data-dependent merging sees them."""
        return VisionProbe(
            self.config.model, self.classes, self._scenario, self._tasks, self._evaluation_sets
        )

    def _position(self, task: str) -> int:
        """The index of the task in the task sequence."""
        if task not in self._tasks:
            msg = f"Task '{task}' is not in the task sequence; {suggest(task, self._tasks)}."
            raise UnknownMethodError(msg)
        return self._tasks.index(task)

    def _training_set(self, tasks: Sequence[str]) -> TrainingSet:
        """The union of the tasks' training splits, in the order given."""
        if not tasks:
            msg = "Fine-tuning needs at least one task, got none. Name one or more of the task sequence."
            raise SpecError(msg)
        positions = [self._position(task) for task in tasks]
        parts = [(self._snapshots[task], self._snapshots[task].splits["train"]) for task in tasks]
        labels = [torch.from_numpy(examples.labels) for _, examples in parts]
        return TrainingSet(
            torch.cat([self._scaled(examples, snapshot) for snapshot, examples in parts]),
            torch.cat([self._scenario.targets(part, t) for part, t in zip(labels, positions, strict=True)]),
            torch.cat([torch.full_like(part, t) for part, t in zip(labels, positions, strict=True)]),
        )

    def _examples(self, task: str, split: Split) -> TrainingSet:
        """The images of one task's split."""
        images, targets = self._evaluation_sets[task, split]
        return TrainingSet(images, targets, torch.full_like(targets, self._position(task)))

    def _accuracy(self, model: ViT, task: str, split: Split) -> float:
        """Share of the split's images whose highest output is the right one."""
        position = self._position(task)
        images, targets = self._evaluation_sets[task, split]
        outputs = self._scenario.outputs(logits_of(model, images), torch.full_like(targets, position))
        return float((outputs.argmax(1) == targets).double().mean())

    @cached_property
    def _evaluation_sets(self) -> dict[tuple[str, Split], tuple[Tensor, Tensor]]:
        """For each task and split, the images and the outputs that are right."""
        splits: tuple[Split, ...] = ("train", "validation", "test")
        return {
            (task, split): (
                self._scaled(snapshot.splits[split], snapshot),
                self._scenario.targets(torch.from_numpy(snapshot.splits[split].labels), position),
            )
            for position, (task, snapshot) in enumerate(self._snapshots.items())
            for split in splits
        }

    def _scaled(self, examples: Examples, snapshot: Snapshot) -> Tensor:
        """The images as the model takes them."""
        return scaled(examples, snapshot, channels=self.config.model.channels)

    def _model(self, state: Mapping[str, Tensor], called: str) -> ViT:
        """A model in float32 with these values, which it shares where they are float32 already."""
        return model_of(self.config.model, state, classes=len(self.classes), called=called)
