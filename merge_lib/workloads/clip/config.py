"""The `workload:` block of a study on CLIP. Importing this loads neither torch nor transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from merge_lib.errors import SpecError
from merge_lib.workloads.pretrained.config import EvaluationPrecision, TuningConfig, made_here
from merge_lib.workloads.protocol import Workload
from merge_lib.workloads.settings import Work, WorkloadSettings
from merge_lib.workloads.training.config import Count, Positive, TrainingConfig, deciding

Template = Annotated[str, Field(pattern=r"^[^{}]*\{\}[^{}]*$")]
Scenario = Literal["task-incremental", "class-incremental"]
LOGIT_SCALE = "logit_scale"  # is never trained
PARTS = ("model", "tokenizer", "images")  # of a model's folder


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
        scenario: whether an image's task is known, or its class is sought among those of all tasks. Experts are trained
            on the classes of their own tasks in both.
        tuning: what is trained: both encoders whole, or adapters in them.
        templates: of texts about an image, where a task's snapshot has none of its own.
        zero_shot: further data sets that are measured by zero-shot heads and never trained on.
        strength: factor on the learning rate of a task that is trained alone, by the task's name.
        evaluation_batch: images at once.
        evaluation_precision: of weights and activations, where a checkpoint is evaluated.
        digest: of the model's files; who gives it is refused another model. Filled in when a run begins.
    """

    routes: ClassVar[bool] = True
    name: Literal["clip"]
    model: str
    scenario: Scenario = "task-incremental"
    tuning: TuningConfig = TuningConfig()
    templates: Annotated[tuple[Template, ...], Field(min_length=1)] = ("a photo of a {}.",)
    zero_shot: tuple[str, ...] = ()
    fine_tuning: FineTuningConfig = FineTuningConfig()
    strength: dict[str, Positive] = Field(default_factory=dict)
    evaluation_batch: Count = 256
    evaluation_precision: EvaluationPrecision = "fp32"
    digest: Annotated[str, Field(exclude_if=lambda digest: digest == "")] = ""

    @model_validator(mode="after")
    def _probes_differ(self) -> "ClipConfig":
        if len(set(self.zero_shot)) != len(self.zero_shot):
            msg = f"`zero_shot` {list(self.zero_shot)} names a data set twice; each may stand once"
            raise ValueError(msg)
        return self

    def task_snapshots(self, tasks: Sequence[str]) -> tuple[str, ...]:
        """The tasks', and the model's: tokenizer, and what checkpoints do not hold."""
        return (*tasks, *self.pretraining_snapshots())

    def pretraining_snapshots(self) -> tuple[str, ...]:
        """The model's, where a data stage makes it."""
        return made_here(self.model, self.data)

    def probe_snapshots(self) -> tuple[str, ...]:
        """The data sets that are never trained on."""
        return self.zero_shot

    def settled(self, root: Path) -> "ClipConfig":
        """With the digest of a model that no data stage makes.

        Raises:
            CheckpointError: the model is not here.
            SpecError: `digest` says that it is another one.
        """
        if self.pretraining_snapshots():
            return self
        from merge_lib.workloads.pretrained.locating import locate

        found = locate(self.model, root, parts=PARTS).digest
        if self.digest not in {"", found}:
            msg = (
                f"Model '{self.model}' has the digest {found}, but the study expects {self.digest}. Correct `digest`, "
                "or take it out."
            )
            raise SpecError(msg)
        return self.model_copy(update={"digest": found})

    def parameters_of(self, work: Work) -> dict[str, Any]:
        """The settings that can change the result of one kind of work."""
        parts = {
            "pretrain": {"name", "model", "digest", "tuning"},
            "train": {
                "name",
                "model",
                "digest",
                "tuning",
                "scenario",
                "templates",
                "fine_tuning",
                "strength",
            },
            "evaluate": {
                "name",
                "model",
                "digest",
                "tuning",
                "scenario",
                "templates",
                "zero_shot",
                "evaluation_precision",
            },
        }
        return deciding(self, parts[work])

    def facts_of(self, work: Work, tasks: Sequence[str], data: Path) -> dict[str, Any]:  # noqa: ARG002 - there are none
        """Nothing: experts see the classes of their own tasks alone."""
        return {}

    def code(self, work: Work) -> tuple[str, ...]:  # noqa: ARG002 - one module leads to all
        """The modules whose source can change the result of one kind of work."""
        return ("merge_lib.workloads.clip.workload",)

    def create(self, *, tasks: Sequence[str], data: Path) -> Workload:
        """The workload on the snapshots in `data/tasks` and the model."""
        from merge_lib.workloads.clip.workload import ClipWorkload

        return ClipWorkload(self, tasks=tasks, data=data)
