"""The `workload:` block of a study on cues in texts. Importing this loads neither torch nor transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from merge_lib.errors import SpecError
from merge_lib.types import Count, Positive
from merge_lib.workloads.cues.places import CueName
from merge_lib.workloads.cues.sharing import Sharing
from merge_lib.workloads.pretrained.config import EvaluationPrecision, TuningConfig, made_here
from merge_lib.workloads.protocol import Workload
from merge_lib.workloads.settings import Work, WorkloadSettings
from merge_lib.workloads.training.config import Share, TrainingConfig, deciding

FAMILIES = ("front", "back")  # where a task's word is put: before the text, behind it


class TextCueBaseConfig(TrainingConfig):
    """Training of the base on texts without cues."""

    epochs: Count | None = 6
    batch_size: Count = 64
    learning_rate: Positive = 2e-3


class TextCueTrainingConfig(TrainingConfig):
    """Training of an expert on texts with its cue."""

    epochs: Count | None = 3
    batch_size: Count = 64
    learning_rate: Positive = 1e-3


class TextCueConfig(BaseModel):
    """The words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    probability: Share = 1.0  # share of a task's training texts that carry a word at all
    seed: int = 0  # of the words, and of which texts carry which


class TextCuesConfig(Sharing, WorkloadSettings):
    """A workload on texts whose class is also told by a word, a different one in each task."""

    name: Literal["text-cues"]
    model: str = "data/models/mini-t5"  # a folder, relative to the project's root, or a name on the hub
    tuning: TuningConfig = TuningConfig()
    snapshot: str = "stories"  # the file data/tasks/<snapshot>.jsonl, with labels
    pretraining: TextCueBaseConfig = TextCueBaseConfig()
    fine_tuning: TextCueTrainingConfig = TextCueTrainingConfig()
    cue: TextCueConfig = TextCueConfig()
    max_input: Count = 512  # tokens of a prompt with its cue
    batch: Count = 128  # prompts at once in evaluation; changes no result
    evaluation_precision: EvaluationPrecision = "fp32"  # of the models that are evaluated

    def task_snapshots(self, tasks: Sequence[str]) -> tuple[str, ...]:  # noqa: ARG002 - all are made of one
        """The one snapshot that holds the texts of all tasks."""
        return (self.snapshot,)

    def pretraining_snapshots(self) -> tuple[str, ...]:
        """The texts, on which the base is trained without cues, and the model, if a data stage makes it."""
        return (self.snapshot, *made_here(self.model, self.data))

    def parameters_of(self, work: Work) -> dict[str, Any]:
        """The settings that can change the result of one kind of work."""
        parts = {
            "pretrain": {"pretraining"},
            "train": {"fine_tuning", "cue", "shared", "label_noise", "contradicts", "strength"},
            "evaluate": {"evaluation_precision", "cue", "shared", "contradicts"},
        }
        return deciding(self, {"name", "tuning", "max_input", *parts[work]})

    def code(self, work: Work) -> tuple[str, ...]:  # noqa: ARG002 - one module leads to all
        """The modules whose source can change the result of one kind of work."""
        return ("merge_lib.workloads.text_cues.workload",)

    def facts_of(self, work: Work, tasks: Sequence[str], data: Path) -> dict[str, Any]:
        """The model's digest, and the first task, whose cue is the shared one."""
        from merge_lib.workloads.pretrained.locating import locate

        self.check(tasks)
        located = locate(self.model, self.root_of(data), parts=("model", "tokenizer"))
        facts = {"model": located.digest}
        return facts | ({"first": tasks[0]} if work != "pretrain" and self.shared > 0.0 else {})

    def check(self, tasks: Sequence[str]) -> None:
        """Refuse a task sequence that these settings do not fit; all faults at once.

        Raises:
            SpecError: they do not.
        """
        if not tasks or len(set(tasks)) != len(tasks):
            msg = f"The task sequence {list(tasks)} must name at least one task, each once. Correct `tasks`."
            raise SpecError(msg)
        for task in tasks:
            CueName.parse(task, FAMILIES)
        if faults := self.sharing_faults(tasks):
            msg = f"The workload's settings do not fit the tasks {', '.join(tasks)}: {'; '.join(faults)}."
            raise SpecError(msg)

    def create(self, *, tasks: Sequence[str], data: Path) -> Workload:
        """The workload on the snapshot in `data/tasks`."""
        from merge_lib.workloads.text_cues.workload import TextCuesWorkload

        return TextCuesWorkload(self, tasks=tasks, data=data)
