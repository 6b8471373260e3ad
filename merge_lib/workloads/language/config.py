"""The `workload:` block of a study on text. Importing this loads neither torch nor transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from merge_lib.errors import SpecError
from merge_lib.types import Count, Positive
from merge_lib.workloads.pretrained.config import EvaluationPrecision, TuningConfig, made_here
from merge_lib.workloads.protocol import Workload
from merge_lib.workloads.settings import Teaches, Work, WorkloadSettings
from merge_lib.workloads.training.config import TrainingConfig, deciding

Scoring = Literal["exact_match", "log_likelihood"]
Normalise = Literal["none", "tokens", "bytes"]


class TextTrainingConfig(TrainingConfig):
    """Training of an expert; joint training makes the same number of epochs over the tasks' union."""

    epochs: Count | None = 6
    learning_rate: Positive = 1e-3


class LanguageConfig(WorkloadSettings):
    """A workload on tasks of prompts and answers."""

    name: Literal["language"]
    model: str = "data/models/mini-t5"  # a folder, relative to the project's root, or a name on the hub
    tuning: TuningConfig = TuningConfig()
    fine_tuning: TextTrainingConfig = TextTrainingConfig()
    scoring: Scoring | dict[str, Scoring] = (
        "exact_match"  # of all tasks, or of those named; others: exact_match
    )
    normalise: Normalise = "none"  # by what log-likelihoods of answers are divided before they are compared
    stop: tuple[str, ...] = ()  # texts that end a generated answer
    max_input: Count = 512  # tokens of a prompt
    max_target: Count = 64  # tokens of an answer, with the one that ends it
    too_long: Literal["error", "cut"] = "error"  # what becomes of longer prompts; longer answers are refused
    batch: Count = 64  # prompts at once in evaluation; changes no result
    evaluation_precision: EvaluationPrecision = "fp32"  # of the models that are evaluated

    def pretraining_snapshots(self) -> tuple[str, ...]:
        """The model, if a data stage makes it."""
        return made_here(self.model, self.data)

    def teaching(self) -> Teaches:
        """Adapters, or all weights."""
        return "full" if self.tuning.lora is None else "adapters"

    def parameters_of(self, work: Work) -> dict[str, Any]:
        """The settings that can change the result of one kind of work."""
        limits = {"max_input", "max_target", "too_long"}
        parts = {
            "pretrain": set(),
            "train": {"fine_tuning", *limits},
            "evaluate": {"evaluation_precision", "scoring", "normalise", "stop", *limits},
        }
        return deciding(self, {"name", "tuning", *parts[work]})

    def facts_of(self, work: Work, tasks: Sequence[str], data: Path) -> dict[str, Any]:  # noqa: ARG002
        """The model's digest: whatever it is called, its files decide."""
        from merge_lib.workloads.pretrained.locating import locate

        return {"model": locate(self.model, self.root_of(data), parts=("model", "tokenizer")).digest}

    def code(self, work: Work) -> tuple[str, ...]:
        """The modules whose source can change the result of one kind of work."""
        package = "merge_lib.workloads.language"
        if work == "pretrain":
            return (f"{package}.models",)
        return (f"{package}.workload",)

    def check(self, tasks: Sequence[str]) -> None:
        """Refuse a task sequence that these settings do not fit.

        Raises:
            SpecError: it is empty, names a task twice, or `scoring` names tasks that are not in it.
        """
        if not tasks or len(set(tasks)) != len(tasks):
            msg = f"The task sequence {list(tasks)} must name at least one task, each once. Correct `tasks`."
            raise SpecError(msg)
        named = self.scoring if isinstance(self.scoring, dict) else {}
        if strangers := [task for task in named if task not in tasks]:
            msg = (
                f"`scoring` names {', '.join(strangers)}, which the task sequence does not have: {', '.join(tasks)}. "
                "Correct the names."
            )
            raise SpecError(msg)

    def scoring_of(self, task: str) -> Scoring:
        """How a task's answers are judged."""
        return self.scoring.get(task, "exact_match") if isinstance(self.scoring, dict) else self.scoring

    def create(self, *, tasks: Sequence[str], data: Path) -> Workload:
        """The workload on the snapshots in `data/tasks`."""
        from merge_lib.workloads.language.workload import LanguageWorkload

        return LanguageWorkload(self, tasks=tasks, data=data)
