"""The `workload:` block of a study on images. Importing this loads neither torch nor numpy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from merge_lib.workloads.protocol import Workload
from merge_lib.workloads.settings import Teaches, Work, WorkloadSettings
from merge_lib.workloads.training.config import Count, Positive, TrainingConfig, deciding

Scenario = Literal["task-incremental", "domain-incremental", "class-incremental"]

Channels = Annotated[Literal[1, 3], Field(exclude_if=lambda count: count == 1)]
"""Grey, or red, green and blue; grey is not written down, so that settings from before colour stay as they are."""


class ViTConfig(BaseModel):
    """The vision transformer's sizes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: Count = 8
    patch_size: Count = 4
    width: Count = 64
    depth: Count = 4
    heads: Count = 4
    mlp_ratio: Count = 2
    channels: Channels = 1

    @model_validator(mode="after")
    def _sizes_divide(self) -> "ViTConfig":
        if self.image_size % self.patch_size:
            msg = (
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}; change one"
            )
            raise ValueError(msg)
        if self.width % self.heads:
            msg = f"width {self.width} is not a multiple of heads {self.heads}; change one"
            raise ValueError(msg)
        return self


class ImageTrainingConfig(TrainingConfig):
    """One training on images."""

    shift: Annotated[int, Field(ge=0)] = 0  # augmentation: up to this many pixels each way


class PretrainingConfig(ImageTrainingConfig):
    """Training of the base on glyphs."""

    snapshot: str = "glyphs"  # the file data/pretraining/<snapshot>.safetensors
    epochs: Count | None = 8
    batch_size: Count = 128
    learning_rate: Positive = 2e-3
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.05


class FineTuningConfig(ImageTrainingConfig):
    """Training of an expert; joint training makes the same number of epochs over the tasks' union."""

    epochs: Count | None = 10
    learning_rate: Positive = 3e-4


class VisionConfig(WorkloadSettings):
    """A workload on small grey images."""

    name: Literal["vision"]
    scenario: Scenario
    model: ViTConfig = ViTConfig()
    pretraining: PretrainingConfig = PretrainingConfig()
    fine_tuning: FineTuningConfig = FineTuningConfig()

    def pretraining_snapshots(self) -> tuple[str, ...]:
        """Names of the snapshots that the base is trained on."""
        return (self.pretraining.snapshot,)

    def teaching(self) -> Teaches:
        """All weights."""
        return "full"

    def parameters_of(self, work: Work) -> dict[str, Any]:
        """The settings that can change the result of one kind of work."""
        parts = {
            "pretrain": {"model", "pretraining"},
            "train": {"model", "scenario", "fine_tuning"},
            "evaluate": {"model", "scenario"},
        }
        return deciding(self, {"name", *parts[work]})

    def code(self, work: Work) -> tuple[str, ...]:
        """The modules whose source can change the result of one kind of work."""
        package = "merge_lib.workloads.vision"
        shared = (f"{package}.workload", f"{package}.model", f"{package}.scenarios")
        return shared if work == "evaluate" else (*shared, f"{package}.lessons")

    def facts_of(self, work: Work, tasks: Sequence[str], data: Path) -> dict[str, Any]:
        """The classes of all tasks: they decide what an output means, and widen the head where glyphs lack them."""
        from merge_lib.workloads.vision.data import read_snapshot

        classes = [list(read_snapshot(data / "tasks" / f"{task}.safetensors").classes) for task in tasks]
        if work != "pretrain":
            return {"classes": classes}
        known = set(read_snapshot(data / "pretraining" / f"{self.pretraining.snapshot}.safetensors").classes)
        return {"extra_classes": [name for names in classes for name in names if name not in known]}

    def create(self, *, tasks: Sequence[str], data: Path) -> Workload:
        """The workload on the snapshots in `data/tasks` and `data/pretraining`."""
        from merge_lib.workloads.vision.workload import VisionWorkload

        return VisionWorkload(self, tasks=tasks, data=data)
