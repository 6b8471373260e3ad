"""The CLIP workload: a pretrained model and snapshots in, checkpoints and accuracies out."""

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from functools import partial as bound
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from merge_lib.checkpoints import read_state_dict, write_state_dict
from merge_lib.errors import SpecError, UnknownMethodError, suggest
from merge_lib.probe import Split
from merge_lib.types import StateDict
from merge_lib.workloads.clip.config import LOGIT_SCALE, PARTS, ClipConfig, FineTuningConfig
from merge_lib.workloads.clip.encoding import ClipEncoder
from merge_lib.workloads.clip.heads import Head, Targets, heads_of, own_head
from merge_lib.workloads.clip.lessons import ClassLesson
from merge_lib.workloads.clip.measuring import Measured
from merge_lib.workloads.clip.model import Clip
from merge_lib.workloads.clip.pictures import Normal
from merge_lib.workloads.clip.probe import ClipProbe
from merge_lib.workloads.clip.subjects import Form, ImageSet
from merge_lib.workloads.clip.texts import Texts
from merge_lib.workloads.pretrained.loading import load_image_processor, load_model, load_tokenizer
from merge_lib.workloads.pretrained.locating import locate
from merge_lib.workloads.pretrained.models import PretrainedModels
from merge_lib.workloads.pretrained.tuning import state_of, trained_parameters
from merge_lib.workloads.protocol import Progress, TrainReport
from merge_lib.workloads.training.devices import training_device
from merge_lib.workloads.training.writing import make_checkpoint


class ClipWorkload:
    """CLIP on tasks whose classes have names; heads are texts, so that every model can be asked about every task.

    Args:
        config: the study's `workload:` block.
        tasks: names of the task snapshots, in the order of the task sequence.
        data: the folder with `tasks/`.

    Raises:
        CheckpointError: the model is not on this machine.
        DataError: a snapshot is missing or unreadable, or a text is too long for the model.
        SpecError: the task sequence is empty, names a task twice, or one that is a probe, too.
    """

    def __init__(self, config: ClipConfig, *, tasks: Sequence[str], data: Path) -> None:
        _check_names(tasks, config)
        self.config = config
        self._tasks = tuple(tasks)
        self.located = locate(config.model, config.root_of(data), parts=PARTS)
        load = bound(load_model, self.located, Clip)
        self.models = PretrainedModels(load, config.tuning, config.evaluation_precision)
        self.sets = {
            name: ImageSet(data, name, self._form, config.templates) for name in (*tasks, *config.zero_shot)
        }
        self.targets = self._targets()
        self._ids = {task: self.texts.ids(self.targets[task].head.prompts) for task in self.targets}

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task names, in the order of the task sequence."""
        return self._tasks

    @property
    def chance(self) -> tuple[float, ...]:
        """Accuracy of guessing on each task: one over the number of classes in its head."""
        return tuple(1.0 / len(self.targets[task].head.names) for task in self._tasks)

    @property
    def probes(self) -> tuple[str, ...]:
        """The data sets that are never trained on."""
        return self.config.zero_shot

    @cached_property
    def texts(self) -> Texts:
        """The model's tokenizer."""
        length = self._model_config.text_config.max_position_embeddings
        return Texts(load_tokenizer(self.located), length=length)

    def pretrain(
        self,
        out: Path,
        *,
        seed: int,
        lineage: dict[str, Any],
        progress: Progress | None = None,
        partial: Path | None = None,  # noqa: ARG002 - there is nothing to go on with
    ) -> TrainReport:
        """Write what a checkpoint holds of the model as it is; the seed draws adapters."""
        started = time.perf_counter()
        model = self.models.fresh(seed=seed)
        accuracy = self._mean_accuracy(model, self._tasks)
        if progress is not None:
            progress(1, 1)
        tensors = {name: one.detach() for name, one in state_of(model, self.config.tuning).items()}
        made = write_state_dict(out, tensors, lineage=lineage)
        elapsed_s = time.perf_counter() - started
        return TrainReport(made.path, made.digest, made.size_bytes, elapsed_s, 0, [], accuracy)

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
        """Train `start` on the tasks' training splits together and write it to `out`."""
        config, tuning = self.fine_tuning(tasks), self.config.tuning
        lesson = self.lesson(tasks)
        model = self.models.fresh(seed=seed, start=read_state_dict(start), called=f"Checkpoint '{start}'")
        return make_checkpoint(
            model,
            lesson,
            config,
            out,
            lineage=lineage,
            generator=torch.Generator().manual_seed(seed),
            validate=lambda trained: self._mean_accuracy(trained, tasks),
            tensors=lambda: state_of(model, tuning),
            trained=trained_parameters(model, tuning, without=(LOGIT_SCALE, *config.freeze)),
            saved=partial,
            progress=progress,
        )

    def evaluate(
        self, tensors: StateDict, tasks: Sequence[str], *, split: Split = "test"
    ) -> dict[str, float]:
        """Accuracy in [0, 1] of a checkpoint's model on tasks and on data sets that are never trained on.

        Raises:
            UnknownMethodError: a name is neither a task of the sequence nor a probe.
            CheckpointMismatchError: the tensors are not of this model.
            CheckpointCorruptError: they hold NaN or infinite values.
        """
        for name in tasks:
            self._check_known(name)
        measured = self.measured(tensors)
        return {name: measured.accuracy(self.sets[name], self.targets[name], split) for name in tasks}

    def probe(self) -> ClipProbe:
        """The model and the tasks' images, as data-dependent merging sees them."""
        return ClipProbe(self.models, self.sets, self.targets, self._ids)

    def encoder(self, tensors: StateDict) -> ClipEncoder:
        """A checkpoint's model as features of images and of classes, for a vote of several models."""
        return ClipEncoder(self.measured(tensors), self.sets, self.targets)

    def labels(self, task: str, *, split: Split) -> Int64[Tensor, " n"]:
        """The right output for each image of a task's split."""
        return self.targets[task].of(self.sets[task].labels(split))

    def own_classes(self, task: str) -> Int64[Tensor, " c"]:
        """Which outputs are a task's own classes."""
        return self.targets[task].columns

    def measured(self, tensors: StateDict) -> Measured:
        """A checkpoint's model, ready to encode images and texts.

        Raises:
            CheckpointMismatchError: the tensors are not of this model.
            CheckpointCorruptError: they hold NaN or infinite values.
        """
        return self._measured(self.models.reading(tensors, device=training_device()))

    def lesson(self, tasks: Sequence[str]) -> ClassLesson:
        """What is learned of the tasks' training splits.

        Raises:
            SpecError: there is no task.
            UnknownMethodError: one is not in the task sequence.
        """
        if not tasks:
            msg = "Fine-tuning needs at least one task, got none. Name one or more of the task sequence."
            raise SpecError(msg)
        for task in tasks:
            self._check_known(task)
        config = self.config.fine_tuning
        subjects = {task: self.sets[task].subject for task in tasks}
        targets = heads_of(self.config.scenario, subjects, most=config.templates)
        head = _union([one.head for one in targets.values()])
        sets = {task: self.sets[task] for task in tasks}
        return ClassLesson(sets, targets, head, self.texts.ids(head.prompts), config)

    def fine_tuning(self, tasks: Sequence[str]) -> FineTuningConfig:
        """The settings of a training on these tasks: faster or slower where a single one is to be."""
        config = self.config.fine_tuning
        factor = self.config.strength.get(tasks[0], 1.0) if len(tasks) == 1 else 1.0
        return config.model_copy(update={"learning_rate": config.learning_rate * factor})

    def _targets(self) -> dict[str, Targets]:
        """The head of each task, and of each probe, which always has its own classes."""
        subjects = {task: self.sets[task].subject for task in self._tasks}
        probes = {name: own_head(self.sets[name].subject) for name in self.config.zero_shot}
        return {**heads_of(self.config.scenario, subjects), **probes}

    def _measured(self, model: nn.Module) -> Measured:
        return Measured(model, self.texts, at_once=self.config.evaluation_batch)

    def _mean_accuracy(self, model: nn.Module, tasks: Sequence[str]) -> float:
        """Over the tasks' validation splits."""
        measured = self._measured(model)
        values = [measured.accuracy(self.sets[task], self.targets[task], "validation") for task in tasks]
        return sum(values) / len(values)

    def _check_known(self, name: str) -> None:
        if name not in self.sets:
            msg = f"'{name}' is neither in the task sequence nor a probe; {suggest(name, self.sets)}."
            raise UnknownMethodError(msg)

    @cached_property
    def _form(self) -> Form:
        """How the model takes images."""
        processor = load_image_processor(self.located)
        normal = Normal(tuple(processor.image_mean), tuple(processor.image_std))
        return Form(self._model_config.vision_config.image_size, normal)

    @cached_property
    def _model_config(self) -> Any:
        from transformers import CLIPConfig

        return CLIPConfig.from_pretrained(self.located.folder, local_files_only=True)


def _check_names(tasks: Sequence[str], config: ClipConfig) -> None:
    """Refuse settings that do not fit the task sequence; all faults at once."""
    faults = []
    if not tasks or len(set(tasks)) != len(tasks):
        faults.append(
            f"the task sequence {list(tasks)} must name at least one task, each once; correct `tasks`"
        )
    if both := [name for name in config.zero_shot if name in tasks]:
        faults.append(
            f"`zero_shot` names {', '.join(both)}, which the task sequence trains on: accuracy on tasks that are "
            "still to come is zero-shot anyway; take them out of `zero_shot`"
        )
    if strangers := [name for name in config.strength if name not in tasks]:
        faults.append(f"`strength` names {', '.join(strangers)}, not in the task sequence; take them out")
    if faults:
        msg = f"The workload's settings do not fit the tasks {', '.join(tasks)}: {'; '.join(faults)}."
        raise SpecError(msg)


def _union(heads: Sequence[Head]) -> Head:
    """The classes of all heads, each once; classes with other texts are other classes."""
    classes: Mapping[tuple[str, ...], str] = {
        texts: name for head in heads for name, texts in zip(head.names, head.texts, strict=True)
    }
    return Head(tuple(classes.values()), tuple(classes))
