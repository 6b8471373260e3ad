"""The `workload:` block of a study on CLIP. Importing this loads neither torch nor transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from merge_lib.workloads.pretrained.config import TuningConfig
from merge_lib.workloads.protocol import Workload
from merge_lib.workloads.settings import Work, WorkloadSettings
from merge_lib.workloads.training.config import Count, Positive, TrainingConfig, deciding

Template = Annotated[str, Field(pattern=r"^[^{}]*\{\}[^{}]*$")]
Scenario = Literal["task-incremental", "class-incremental"]
LOGIT_SCALE = "logit_scale"  # is never trained


class FineTuningConfig(TrainingConfig):
    """Training of an expert; joint training goes as long, over the tasks' union.

    Attributes:
        templates: how many of a task's templates the texts are made with, the first ones.
        shift: augmentation: pixels each way.
        smallest_crop: augmentation: least share of an image's area that is cut out and enlarged; 1 cuts nothing.
    """

    epochs: Count | None = 10
    batch_size: Count = 64
    learning_rate: Positive = 1e-5
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    templates: Count = 1
    shift: Annotated[int, Field(ge=0)] = 0
    smallest_crop: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0


class ClipConfig(WorkloadSettings):
    """CLIP on image tasks whose classes have names.

    Attributes:
        model: a name on the hub, or a folder, relative to the project's.
        scenario: whether an image's task is known, or its class is sought among those of all tasks.
        tuning: what is trained: both encoders whole, or adapters in them.
        templates: of texts about an image, where a task's snapshot has none of its own.
        zero_shot: further data sets that are measured by zero-shot heads and never trained on.
        evaluation_batch: images at once.
    """

    name: Literal["clip"]
    model: str
    scenario: Scenario = "task-incremental"
    tuning: TuningConfig = TuningConfig()
    templates: Annotated[tuple[Template, ...], Field(min_length=1)] = ("a photo of a {}.",)
    zero_shot: tuple[str, ...] = ()
    fine_tuning: FineTuningConfig = FineTuningConfig()
    evaluation_batch: Count = 256

    @model_validator(mode="after")
    def _probes_differ(self) -> "ClipConfig":
        if len(set(self.zero_shot)) != len(self.zero_shot):
            msg = f"`zero_shot` {list(self.zero_shot)} names a data set twice; each may stand once"
            raise ValueError(msg)
        return self
