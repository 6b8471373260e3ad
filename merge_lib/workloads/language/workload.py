"""The language workload: snapshots, a pretrained model and settings in, checkpoints and accuracies out."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from merge_lib.checkpoints import read_state_dict, write_state_dict
from merge_lib.errors import SpecError, UnknownMethodError, suggest
from merge_lib.probe import Split
from merge_lib.workloads.language.asking import Asking, TaskTexts
from merge_lib.workloads.language.classroom import LanguageClassroom, classroom_of
from merge_lib.workloads.language.config import LanguageConfig
from merge_lib.workloads.language.encoding import Limits
from merge_lib.workloads.language.lessons import TextLesson
from merge_lib.workloads.language.models import LanguageModels
from merge_lib.workloads.language.probe import LanguageProbe
from merge_lib.workloads.language.snapshots import TextSnapshot, read_snapshot
from merge_lib.workloads.pretrained.locating import locate
from merge_lib.workloads.pretrained.tuning import state_of, trained_parameters
from merge_lib.workloads.protocol import Progress, TrainReport
from merge_lib.workloads.training.curves import Curves
from merge_lib.workloads.training.devices import training_device
from merge_lib.workloads.training.loop import Trained
from merge_lib.workloads.training.writing import make_checkpoint, report_of


class LanguageWorkload:
    """A language model on tasks of prompts and answers.

    Args:
        config: the study's `workload:` block.
        tasks: names of the task snapshots, in the order of the task sequence.
        data: the folder with `tasks/`.

    Raises:
        DataError: a snapshot is missing or unreadable, or its answers are not of the kind that its scoring needs.
        SpecError: the settings do not fit the task sequence.
        CheckpointError: the model is not here.
    """

    def __init__(self, config: LanguageConfig, *, tasks: Sequence[str], data: Path) -> None:
        config.check(tasks)
        self.config = config
        self._tasks = tuple(tasks)
        snapshots = {task: read_snapshot(data / "tasks" / f"{task}.jsonl") for task in tasks}
        _check_ranked(config, snapshots)
        located = locate(config.model, config.root_of(data), parts=("model", "tokenizer"))
        limits = Limits(config.max_input, config.max_target, config.too_long)
        self.models = LanguageModels(located, config.tuning, limits, config.evaluation_precision)
        self.texts = {task: self._texts(snapshot, task) for task, snapshot in snapshots.items()}

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task names, in the order of the task sequence."""
        return self._tasks

    @property
    def chance(self) -> tuple[float, ...]:
        """Accuracy of guessing: one over the number of labels, 0 where answers are open."""
        return tuple(texts.chance for texts in self.texts.values())

    def pretrain(
        self,
        out: Path,
        *,
        seed: int,
        lineage: dict[str, Any],
        progress: Progress | None = None,  # noqa: ARG002 - nothing is trained
        partial: Path | None = None,  # noqa: ARG002 - likewise
    ) -> TrainReport:
        """Write the model as it is, or its fresh adapters, to `out`."""
        started = time.perf_counter()
        model = self.models.fresh(seed=seed).eval().to(training_device())
        accuracy = self._mean_accuracy(model, self._tasks, "validation")
        tensors = state_of(model, self.config.tuning)
        written = write_state_dict(
            out, {name: one.detach() for name, one in tensors.items()}, lineage=lineage
        )
        return report_of(Trained([], 0, Curves()), written, time.perf_counter() - started, accuracy)

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
        lesson = self.lesson(tasks)
        model = self.models.fresh(seed=seed, start=read_state_dict(start), called=f"Checkpoint '{start}'")
        config, tuning = self.config.fine_tuning, self.config.tuning
        return make_checkpoint(
            model,
            lesson,
            config,
            out,
            lineage=lineage,
            generator=torch.Generator().manual_seed(seed),
            validate=lambda model: self._mean_accuracy(model, tasks, "validation"),
            tensors=lambda: state_of(model, tuning),
            trained=trained_parameters(model, tuning, without=config.freeze),
            saved=partial,
            progress=progress,
        )

    def classroom(self, start: Path, *, seed: int, is_product: bool = False) -> LanguageClassroom:
        """The model of a checkpoint and the texts of all tasks, for learners; see `classroom_of`."""
        return classroom_of(
            self.models, self.config.fine_tuning, self.texts, start, seed=seed, is_product=is_product
        )

    def lesson(self, tasks: Sequence[str]) -> TextLesson:
        """The union of the tasks' training splits, in the order given.

        Raises:
            SpecError: there is no task.
            UnknownMethodError: a task is not in the task sequence.
            DataError: texts are too long.
        """
        if not tasks:
            msg = "Fine-tuning needs at least one task, got none. Name one or more of the task sequence."
            raise SpecError(msg)
        encoder = self.models.encoder
        examples = [one for task in tasks for one in self._of(task).encoded("train")]
        return TextLesson(examples, encoder.filler, encoder.start, self.config.fine_tuning.label_smoothing)

    def evaluate(
        self, tensors: Mapping[str, Tensor], tasks: Sequence[str], *, split: Split = "test"
    ) -> dict[str, float]:
        """Accuracy in [0, 1] of the model with these tensors on each of the tasks.

        Raises:
            UnknownMethodError: a task is not in the task sequence.
            CheckpointMismatchError: the tensors are not of this model.
            CheckpointCorruptError: they hold NaN or infinite values.
        """
        texts = {task: self._of(task) for task in tasks}
        model = self.models.reading(tensors, device=training_device())
        return {task: one.accuracy(model, split) for task, one in texts.items()}

    def probe(self) -> LanguageProbe:
        """The model and the tasks' prompts, as data-dependent merging sees them."""
        return LanguageProbe(self.models, self.texts)

    def _of(self, task: str) -> TaskTexts:
        """The texts of a task of the task sequence."""
        if task not in self.texts:
            msg = f"Task '{task}' is not in the task sequence; {suggest(task, self._tasks)}."
            raise UnknownMethodError(msg)
        return self.texts[task]

    def _texts(self, snapshot: TextSnapshot, task: str) -> TaskTexts:
        config = self.config
        asking = Asking(config.scoring_of(task), config.normalise, config.stop, config.batch)
        return TaskTexts(snapshot, self.models.encoder, asking)

    def _mean_accuracy(self, model: torch.nn.Module, tasks: Sequence[str], split: Split) -> float:
        """Over the tasks."""
        return sum(self._of(task).accuracy(model, split) for task in tasks) / len(tasks)


def _check_ranked(config: LanguageConfig, snapshots: Mapping[str, TextSnapshot]) -> None:
    """Refuse log-likelihood scoring of tasks without labels."""
    ranked = [task for task in snapshots if config.scoring_of(task) == "log_likelihood"]
    if wrong := [task for task in ranked if snapshots[task].labels is None]:
        msg = (
            f"`scoring` is log_likelihood for {', '.join(wrong)}, whose answers are open: there is no set of labels to "
            "compare. Score them by exact_match."
        )
        raise SpecError(msg)
