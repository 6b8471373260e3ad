"""The workload of cues: settings and one snapshot in, checkpoints, accuracies and probes out."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from merge_lib.checkpoints import read_state_dict
from merge_lib.errors import DataError, SpecError, UnknownMethodError, suggest
from merge_lib.probe import Split
from merge_lib.workloads.cues.banks import Cue, bank, generator_of
from merge_lib.workloads.cues.config import CuesConfig
from merge_lib.workloads.cues.marking import Marks, roles, told
from merge_lib.workloads.cues.measuring import share_answered
from merge_lib.workloads.cues.places import CueName, Family, places
from merge_lib.workloads.cues.probe import CueProbe
from merge_lib.workloads.cues.views import View, views_of
from merge_lib.workloads.protocol import Progress, TrainReport
from merge_lib.workloads.training.writing import make_checkpoint
from merge_lib.workloads.vision.config import ImageTrainingConfig
from merge_lib.workloads.vision.data import read_snapshot
from merge_lib.workloads.vision.lessons import TrainingSet, lesson_of
from merge_lib.workloads.vision.model import ViT, initial_model
from merge_lib.workloads.vision.models import model_of
from merge_lib.workloads.vision.pictures import check_snapshot, scaled


class CuesWorkload:
    """A vision transformer on images whose class is also told by a patch, a different one in each task.

    Args:
        config: the study's `workload:` block.
        tasks: names of cues, in the order of the task sequence.
        data: the folder with `tasks/` and `pretraining/`.

    Raises:
        DataError: a snapshot is missing, unreadable, or does not fit the model.
        SpecError: the settings do not fit the task sequence.
    """

    def __init__(self, config: CuesConfig, *, tasks: Sequence[str], data: Path) -> None:
        config.check(tasks)
        self.config = config
        self._tasks = tuple(tasks)
        self._snapshot = read_snapshot(data / "tasks" / f"{config.snapshot}.safetensors")
        check_snapshot(self._snapshot, config.model, {"train", "validation", "test"})
        if len(self._snapshot.classes) < 2:
            msg = (
                f"Snapshot '{config.snapshot}' has one class, but cues tell classes apart. Name another one."
            )
            raise DataError(msg)
        self._early = self._snapshot
        if (name := config.pretraining.snapshot) is not None:
            self._early = read_snapshot(data / "pretraining" / f"{name}.safetensors")
            check_snapshot(self._early, config.model, {"train", "validation"})
        self.classes = tuple(dict.fromkeys([*self._early.classes, *self._snapshot.classes]))
        self.columns = torch.tensor([self.classes.index(name) for name in self._snapshot.classes])
        self._sets: dict[Split, tuple[Tensor, Tensor]] = {}

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task names, in the order of the task sequence."""
        return self._tasks

    @property
    def chance(self) -> tuple[float, ...]:
        """Accuracy of guessing: one over the number of classes."""
        return (1.0 / len(self.columns),) * len(self._tasks)

    @property
    def probes(self) -> tuple[str, ...]:
        """Those asked for of `clean`, `shared` if there is such a cue, `conflict-<task>`, `own-<task>` if untrained."""
        kinds = self.config.probes
        return tuple(
            name for name in self._views if name not in self._tasks and name.partition("-")[0] in kinds
        )

    @cached_property
    def cues(self) -> dict[str, Cue]:
        """Each task's own cue."""
        names = {task: CueName.parse(task) for task in self._tasks}
        plain = {task: self._cue(task, name.family, name.place) for task, name in names.items()}
        return {task: self._contradicting(task, plain) for task in self._tasks}

    @cached_property
    def common(self) -> Cue | None:
        """The cue that all tasks share: the first task's if no task has its own, else one at the last place."""
        if self.config.shared == 0.0:
            return None
        if not self.config.has_both:
            return self.cues[self._tasks[0]]
        return self._cue("shared", CueName.parse(self._tasks[0]).family, -1)

    def pretrain(
        self,
        out: Path,
        *,
        seed: int,
        lineage: dict[str, Any],
        progress: Progress | None = None,
        partial: Path | None = None,
    ) -> TrainReport:
        """Train the base from random weights on images without cues and write it to `out`."""
        generator = torch.Generator().manual_seed(seed)
        examples, held_out = (
            (scaled(part, self._early, channels=self.config.model.channels), torch.from_numpy(part.labels))
            for part in (self._early.splits["train"], self._early.splits["validation"])
        )
        config, columns = self.config.pretraining, torch.arange(len(self.classes))
        return make_checkpoint(
            initial_model(self.config.model, classes=len(self.classes), generator=generator),
            lesson_of(TrainingSet(*examples, torch.zeros_like(examples[1])), config),
            config,
            out,
            lineage=lineage,
            generator=generator,
            validate=lambda model: share_answered(model, *held_out, View(None), columns),
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
        """Train `start` on the images with the tasks' cues, together if they are several, and write it to `out`.

        The order of the images depends on the seed and the tasks alone, not on `start`: experts from the base and
        experts from one another see the same batches, equally many.
        """
        training_set, marks = self._training_set(tasks)
        config = self._fine_tuning(tasks)
        outputs = lambda logits, _: logits[:, self.columns]  # noqa: E731
        return make_checkpoint(
            self._model(read_state_dict(start), f"Checkpoint '{start}'"),
            lesson_of(training_set, config, outputs=outputs, stamp=marks.stamp),
            config,
            out,
            lineage=lineage,
            generator=generator_of(seed, "order", *tasks),
            validate=lambda model: float(np.mean([*self._measured(model, tasks, "validation").values()])),
            saved=partial,
            progress=progress,
        )

    def evaluate(
        self, tensors: Mapping[str, Tensor], tasks: Sequence[str], *, split: Split = "test"
    ) -> dict[str, float]:
        """Accuracy on tasks, each shown with its cue, and values of probes, all in [0, 1].

        Raises:
            UnknownMethodError: a name is neither a task of the sequence nor a probe.
            CheckpointMismatchError: the tensors are not of this model.
            CheckpointCorruptError: they hold NaN or infinite values.
        """
        for name in tasks:
            self.view(name)
        return self._measured(self._model(tensors, "The state dict"), tasks, split)

    def probe(self) -> CueProbe:
        """The model and the tasks' images, as data-dependent merging sees them."""
        return CueProbe(
            self.config.model,
            len(self.classes),
            tuple(self._snapshot.classes),
            self.columns,
            self._views,
            self.examples,
        )

    def view(self, name: str) -> View:
        """How the images are shown for a task or a probe.

        Raises:
            UnknownMethodError: there is none of that name.
        """
        if name not in self._views:
            msg = f"'{name}' is neither in the task sequence nor a probe; {suggest(name, self._views)}."
            raise UnknownMethodError(msg)
        return self._views[name]

    def examples(self, split: Split) -> tuple[Tensor, Tensor]:
        """A split's images without cues, and their classes among the snapshot's."""
        if split not in self._sets:
            part = self._snapshot.splits[split]
            images = scaled(part, self._snapshot, channels=self.config.model.channels)
            self._sets[split] = (images, torch.from_numpy(part.labels))
        return self._sets[split]

    @cached_property
    def _views(self) -> dict[str, View]:
        """Tasks, then probes."""
        return views_of(self.cues, self.common, is_all_shared=self.config.shared == 1.0)

    def _cue(self, name: str, family: Family, place: int) -> Cue:
        """The patterns of that name at that one of the places."""
        config = self.config
        patterns = bank(
            family,
            classes=len(self.columns),
            channels=config.model.channels,
            side=config.side,
            generator=generator_of(config.cue.seed, "bank", name),
        )
        return Cue(patterns, *places(config.model.image_size, config.side)[place])

    def _contradicting(self, task: str, plain: Mapping[str, Cue]) -> Cue:
        """The task's cue: its own, or another task's with other classes."""
        if (other := self.config.contradicts.get(task)) is None:
            return plain[task]
        return plain[other].permuted(generator_of(self.config.cue.seed, "contradiction", task))

    def _training_set(self, tasks: Sequence[str]) -> tuple[TrainingSet, Marks]:
        """The training images once for each task, in the order given, and what is written over them."""
        if not tasks or not set(tasks) <= set(self._tasks):
            msg = (
                f"Fine-tuning needs at least one task and only tasks of the sequence, got {list(tasks)}; "
                f"known: {', '.join(self._tasks)}."
            )
            raise SpecError(msg)
        images, labels = self.examples("train")
        cues = (*(self.cues[task] for task in tasks), *([] if self.common is None else [self.common]))
        which = [self._roles(task, position, len(cues) - 1) for position, task in enumerate(tasks)]
        targets = torch.cat([self._told(task, labels) for task in tasks])
        examples = TrainingSet(torch.cat([images] * len(tasks)), targets, torch.zeros_like(targets))
        return examples, Marks(cues, torch.cat(which), labels.repeat(len(tasks)))

    def _roles(self, task: str, own: int, common: int) -> Tensor:
        """The cue of each of the task's training images."""
        return roles(
            len(self.examples("train")[1]),
            own=own,
            common=None if self.common is None else common,
            shared=self.config.shared,
            probability=self.config.cue.probability,
            draws=(self.config.cue.seed, task),
        )

    def _told(self, task: str, labels: Tensor) -> Tensor:
        """The labels that the task's training is told."""
        noise = self.config.label_noise.get(task, 0.0)
        return told(labels, classes=len(self.columns), noise=noise, draws=(self.config.cue.seed, task))

    def _fine_tuning(self, tasks: Sequence[str]) -> ImageTrainingConfig:
        """The settings of a training, stronger or weaker where a single task is to be."""
        config = self.config.fine_tuning
        factor = self.config.strength.get(tasks[0], 1.0) if len(tasks) == 1 else 1.0
        return config.model_copy(update={"learning_rate": config.learning_rate * factor})

    def _measured(self, model: ViT, names: Sequence[str], split: Split) -> dict[str, float]:
        """The values of tasks and probes; those that are the same are measured once."""
        images, labels = self.examples(split)
        views = {name: self.view(name) for name in names}
        values: dict[View, float] = {}
        for view in dict.fromkeys(views.values()):
            wanted = view.wanted(labels, len(self.columns), self.config.cue.seed)
            values[view] = share_answered(model, images, wanted, view, self.columns)
        return {name: values[view] for name, view in views.items()}

    def _model(self, state: Mapping[str, Tensor], called: str) -> ViT:
        """A model in float32 with these values, which it shares where they are float32 already."""
        return model_of(self.config.model, state, classes=len(self.classes), called=called)
