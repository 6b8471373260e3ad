"""The workload of cues in texts: settings and one snapshot in, checkpoints, accuracies and probes out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from merge_lib.checkpoints import read_state_dict
from merge_lib.errors import DataError, SpecError, UnknownMethodError, suggest
from merge_lib.probe import Split
from merge_lib.workloads.cues.banks import generator_of
from merge_lib.workloads.cues.marking import BARE, roles, told
from merge_lib.workloads.cues.places import CueName
from merge_lib.workloads.cues.views import View, views_of
from merge_lib.workloads.language.asking import Asking, TaskTexts
from merge_lib.workloads.language.encoding import Encoded, Limits
from merge_lib.workloads.language.lessons import TextLesson
from merge_lib.workloads.language.models import LanguageModels
from merge_lib.workloads.language.probe import LanguageProbe
from merge_lib.workloads.language.snapshots import Example, read_snapshot
from merge_lib.workloads.pretrained.locating import locate
from merge_lib.workloads.pretrained.tuning import state_of, trained_parameters
from merge_lib.workloads.protocol import Progress, TrainReport
from merge_lib.workloads.text_cues.config import FAMILIES, TextCuesConfig
from merge_lib.workloads.text_cues.words import SHARED, TextCue, words_at
from merge_lib.workloads.training.config import TrainingConfig
from merge_lib.workloads.training.devices import training_device
from merge_lib.workloads.training.writing import make_checkpoint

LONGEST_LABEL = 64  # tokens


class TextCuesWorkload:
    """A language model on texts whose class is also told by a word, a different one in each task.

    Args:
        config: the study's `workload:` block.
        tasks: names of cues, in the order of the task sequence.
        data: the folder with `tasks/`.

    Raises:
        DataError: the snapshot is missing, unreadable, or has no labels.
        SpecError: the settings do not fit the task sequence.
        CheckpointError: the model is not here.
    """

    def __init__(self, config: TextCuesConfig, *, tasks: Sequence[str], data: Path) -> None:
        config.check(tasks)
        self.config = config
        self._tasks = tuple(tasks)
        self._snapshot = read_snapshot(data / "tasks" / f"{config.snapshot}.jsonl")
        if self._snapshot.labels is None:
            msg = f"Snapshot '{config.snapshot}' has open answers, but cues tell classes apart. Name one with labels."
            raise DataError(msg)
        self.labels = self._snapshot.labels
        located = locate(config.model, config.root_of(data), parts=("model", "tokenizer"))
        limits = Limits(config.max_input, LONGEST_LABEL, "error")
        self.models = LanguageModels(located, config.tuning, limits, config.evaluation_precision)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task names, in the order of the task sequence."""
        return self._tasks

    @property
    def chance(self) -> tuple[float, ...]:
        """Accuracy of guessing: one over the number of classes."""
        return (1.0 / len(self.labels),) * len(self._tasks)

    @property
    def probes(self) -> tuple[str, ...]:
        """`clean`; `shared` if there is such a cue; `conflict-<task>`; `own-<task>` if nothing was trained on it."""
        return tuple(name for name in self._views if name not in self._tasks)

    @cached_property
    def cues(self) -> dict[str, TextCue]:
        """Each task's own cue."""
        names = {task: CueName.parse(task, FAMILIES) for task in self._tasks}
        plain = {task: self._cue(name.place, name.family) for task, name in names.items()}
        return {task: self._contradicting(task, plain) for task in self._tasks}

    @cached_property
    def common(self) -> TextCue | None:
        """The cue that all tasks share: the first task's if no task has its own, else one of other words."""
        if self.config.shared == 0.0:
            return None
        if not self.config.has_both:
            return self.cues[self._tasks[0]]
        return self._cue(SHARED, CueName.parse(self._tasks[0], FAMILIES).family)

    def pretrain(
        self,
        out: Path,
        *,
        seed: int,
        lineage: dict[str, Any],
        progress: Progress | None = None,
        partial: Path | None = None,
    ) -> TrainReport:
        """Train the base from the pretrained model on texts without cues and write it to `out`."""
        return self._made(
            self.models.fresh(seed=seed),
            self._texts["clean"].encoded("train"),
            self.config.pretraining,
            out,
            ["clean"],
            generator=torch.Generator().manual_seed(seed),
            lineage=lineage,
            progress=progress,
            saved=partial,
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
        """Train `start` on the texts with the tasks' cues, together if they are several, and write it to `out`.

        The order of the texts depends on the seed and the tasks alone, not on `start`: experts from the base and
        experts from one another see the same batches, equally many.
        """
        return self._made(
            self.models.fresh(seed=seed, start=read_state_dict(start), called=f"Checkpoint '{start}'"),
            self.examples(tasks),
            self._fine_tuning(tasks),
            out,
            tasks,
            generator=generator_of(seed, "order", *tasks),
            lineage=lineage,
            progress=progress,
            saved=partial,
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
        return self._measured(self.models.reading(tensors, device=training_device()), tasks, split)

    def probe(self) -> LanguageProbe:
        """The model and the tasks' texts with their cues, as data-dependent merging sees them."""
        return LanguageProbe(self.models, {task: self._texts[task] for task in self._tasks})

    def view(self, name: str) -> View:
        """How the texts are shown for a task or a probe.

        Raises:
            UnknownMethodError: there is none of that name.
        """
        if name not in self._views:
            msg = f"'{name}' is neither in the task sequence nor a probe; {suggest(name, self._views)}."
            raise UnknownMethodError(msg)
        return self._views[name]

    def examples(self, tasks: Sequence[str]) -> list[Encoded]:
        """The training texts once for each task, in the order given, with cues and the labels that are told.

        Raises:
            SpecError: there is no task, or one is not of the sequence.
        """
        if not tasks or not set(tasks) <= set(self._tasks):
            msg = (
                f"Fine-tuning needs at least one task and only tasks of the sequence, got {list(tasks)}; "
                f"known: {', '.join(self._tasks)}."
            )
            raise SpecError(msg)
        marked = [example for task in tasks for example in self._marked(task)]
        return self.models.encoder.task(self._snapshot, marked)

    def _marked(self, task: str) -> list[Example]:
        """A task's training texts: each with its own cue, the shared one or none."""
        plain = self._snapshot.splits["train"]
        labels, config = self._classes("train"), self.config
        which = roles(
            len(plain),
            own=0,
            common=None if self.common is None else 1,
            shared=config.shared,
            probability=config.cue.probability,
            draws=(config.cue.seed, task),
        ).tolist()
        noise = config.label_noise.get(task, 0.0)
        answers = told(labels, classes=len(self.labels), noise=noise, draws=(config.cue.seed, task)).tolist()
        cues = {0: self.cues[task], 1: self.common}
        return [
            Example(
                example.input if role == BARE else cues[role].write(example.input, shown), self.labels[answer]
            )
            for example, role, shown, answer in zip(plain, which, labels.tolist(), answers, strict=True)
        ]

    def _classes(self, split: Split) -> Tensor:
        """[n], the number of each text's label."""
        return torch.tensor([self.labels.index(example.target) for example in self._snapshot.splits[split]])

    @cached_property
    def _views(self) -> dict[str, View]:
        """Tasks, then probes."""
        return views_of(self.cues, self.common, is_all_shared=self.config.shared == 1.0)

    @cached_property
    def _texts(self) -> dict[str, TaskTexts]:
        """For each task and probe the texts as they are shown; the same object where they are the same."""
        asking = Asking(scoring="log_likelihood", at_once=self.config.batch)
        made = {view: self._shown(view, asking) for view in dict.fromkeys(self._views.values())}
        return {name: made[view] for name, view in self._views.items()}

    def _shown(self, view: View, asking: Asking) -> TaskTexts:
        """All texts in one view; the answer that counts is the right one, or what the cue shows."""
        splits: dict[Split, tuple[Example, ...]] = {}
        for split, plain in self._snapshot.splits.items():
            wanted = view.wanted(self._classes(split), len(self.labels), self.config.cue.seed).tolist()
            splits[split] = tuple(
                Example(e.input if view.cue is None else view.cue.write(e.input, label), self.labels[label])
                for e, label in zip(plain, wanted, strict=True)
            )
        return TaskTexts(replace(self._snapshot, splits=splits), self.models.encoder, asking)

    def _cue(self, place: int, family: str) -> TextCue:
        return TextCue(words_at(place, len(self.labels), self.config.cue.seed), family == "front")

    def _contradicting(self, task: str, plain: Mapping[str, TextCue]) -> TextCue:
        """The task's cue: its own, or another task's with other classes."""
        if (other := self.config.contradicts.get(task)) is None:
            return plain[task]
        return plain[other].permuted(generator_of(self.config.cue.seed, "contradiction", task))

    def _fine_tuning(self, tasks: Sequence[str]) -> TrainingConfig:
        """The settings of a training, stronger or weaker where a single task is to be."""
        config = self.config.fine_tuning
        factor = self.config.strength.get(tasks[0], 1.0) if len(tasks) == 1 else 1.0
        return config.model_copy(update={"learning_rate": config.learning_rate * factor})

    def _made(
        self,
        model: nn.Module,
        examples: list[Encoded],
        config: TrainingConfig,
        out: Path,
        validated: Sequence[str],
        **keywords: Any,
    ) -> TrainReport:
        """Train the model on the examples and write it."""
        encoder, tuning = self.models.encoder, self.config.tuning
        return make_checkpoint(
            model,
            TextLesson(examples, encoder.filler, encoder.start, config.label_smoothing),
            config,
            out,
            validate=lambda model: self._mean(model, validated),
            tensors=lambda: state_of(model, tuning),
            trained=trained_parameters(model, tuning, without=config.freeze),
            **keywords,
        )

    def _mean(self, model: nn.Module, names: Sequence[str]) -> float:
        values = self._measured(model, names, "validation").values()
        return sum(values) / len(values)

    def _measured(self, model: nn.Module, names: Sequence[str], split: Split) -> dict[str, float]:
        """The values of tasks and probes; those that are the same are measured once."""
        values: dict[View, float] = {}
        for name in names:
            if (view := self._views[name]) not in values:
                values[view] = self._texts[name].accuracy(model, split)
        return {name: values[self._views[name]] for name in names}
