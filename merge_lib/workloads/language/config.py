"""The `workload:` block of a study on text. Importing this loads neither torch nor transformers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from merge_lib.errors import SpecError
from merge_lib.types import Count
from merge_lib.workloads.pretrained.config import TuningConfig
from merge_lib.workloads.protocol import Workload
from merge_lib.workloads.settings import Work, WorkloadSettings
from merge_lib.workloads.training.config import TrainingConfig, deciding

Scoring = Literal["exact_match", "log_likelihood"]
Normalise = Literal["none", "tokens", "bytes"]


class TextFineTuningConfig(TrainingConfig):
    """Training of an expert; joint training makes the same number of epochs over the tasks' union."""

    epochs: Count | None = 4
    learning_rate: Positive = 1e-3


class LanguageConfig(WorkloadSettings):
    """A workload on tasks of prompts and answers."""

    name: Literal["language"]
    model: str = "data/models/mini-t5"  # a folder, relative to the project's root, or a name on the hub
    tuning: TuningConfig = TuningConfig()
    fine_tuning: TextFineTuningConfig = TextFineTuningConfig()
    scoring: Scoring | dict[str, Scoring] = "exact_match"  # of all tasks, or of those named; others: exact_match
    normalise: Normalise = "none"  # by what log-likelihoods of answers are divided before they are compared
    stop: tuple[str, ...] = ()  # texts that end a generated answer
    max_input: Count = 512  # tokens of a prompt
    max_target: Count = 64  # tokens of an answer, with the one that ends it
    too_long: Literal["error", "cut"] = "error"  # what happens to longer prompts; longer answers are always refused
    batch: Count = 64  # examples at once in evaluation; changes no result
