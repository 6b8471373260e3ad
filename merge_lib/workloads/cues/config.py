"""The `workload:` block of a study on cues. Importing this loads neither torch nor numpy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from merge_lib.errors import SpecError
from merge_lib.workloads.cues.places import CueName, check_room, side_of
from merge_lib.workloads.cues.sharing import Sharing
from merge_lib.workloads.protocol import Workload
from merge_lib.workloads.settings import Work, WorkloadSettings
from merge_lib.workloads.training.config import Count, Positive, Share, deciding
from merge_lib.workloads.vision.config import ImageTrainingConfig, ViTConfig

SMALLEST_SIDE = 2  # a patch of one pixel has no pattern
ProbeKind = Literal["clean", "shared", "conflict", "own"]
PROBES: tuple[ProbeKind, ...] = ("clean", "shared", "conflict", "own")


class CueModelConfig(ViTConfig):
    """The vision transformer's sizes; in colour, and larger images than the handwritten digits."""

    image_size: Count = 16
    depth: Count = 2
    channels: Literal[1, 3] = 3


class CuePretrainingConfig(ImageTrainingConfig):
    """Training of the base on images without cues."""

    snapshot: str | None = (
        None  # the file data/pretraining/<snapshot>.safetensors; None: the study's own images
    )
    epochs: Count | None = 8
    batch_size: Count = 128
    learning_rate: Positive = 4e-3
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.05


class CueFineTuningConfig(ImageTrainingConfig):
    """Training of an expert on images with its cue."""

    epochs: Count | None = 3
    batch_size: Count = 128
    learning_rate: Positive = 4e-3


class CueConfig(BaseModel):
    """The patches."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: Annotated[float, Field(gt=0.0, le=0.5)] = 0.25  # of the image's side
    probability: Share = 1.0  # share of a task's training images that are stamped at all
    seed: int = 0  # of the patterns, and of which images carry which


class CuesConfig(Sharing, WorkloadSettings):
    """A workload on images whose class is also told by a patch, a different one in each task."""

    name: Literal["cues"]
    snapshot: str = "characters"  # the file data/tasks/<snapshot>.safetensors
    model: CueModelConfig = CueModelConfig()
    pretraining: CuePretrainingConfig = CuePretrainingConfig()
    fine_tuning: CueFineTuningConfig = CueFineTuningConfig()
    cue: CueConfig = CueConfig()
    probes: tuple[ProbeKind, ...] = PROBES  # what is measured beside the accuracies

    @model_validator(mode="after")
    def _patch_has_a_pattern(self) -> "CuesConfig":
        if self.side < SMALLEST_SIDE:
            msg = (
                f"cue.share {self.cue.share} of {self.model.image_size} pixels is a patch of {self.side}, but it needs "
                f"{SMALLEST_SIDE} at least; enlarge it"
            )
            raise ValueError(msg)
        return self

    @property
    def side(self) -> int:
        """Of a patch, in pixels."""
        return side_of(self.model.image_size, self.cue.share)

    def task_snapshots(self, tasks: Sequence[str]) -> tuple[str, ...]:  # noqa: ARG002 - all are made of one
        """The one snapshot that holds the images of all tasks."""
        return (self.snapshot,)

    def pretraining_snapshots(self) -> tuple[str, ...]:
        """The snapshot that the base is trained on: by default the tasks' own."""
        return (self.pretraining.snapshot or self.snapshot,)

    def parameters_of(self, work: Work) -> dict[str, Any]:
        """The settings that can change the result of one kind of work."""
        parts = {
            "pretrain": {"model", "pretraining"},
            "train": {"model", "fine_tuning", "cue", "shared", "label_noise", "contradicts", "strength"},
            "evaluate": {"model", "cue", "shared", "contradicts", "probes"},
        }
        return deciding(self, {"name", *parts[work]})

    def code(self, work: Work) -> tuple[str, ...]:  # noqa: ARG002 - one module leads to all
        """The modules whose source can change the result of one kind of work."""
        return ("merge_lib.workloads.cues.workload",)

    def facts_of(self, work: Work, tasks: Sequence[str], data: Path) -> dict[str, Any]:
        """The first task, whose cue is the shared one, and the classes of the head where they are not the tasks' alone.

        A task's own cue depends on its name alone, so longer studies find the experts of shorter ones.
        """
        self.check(tasks)
        facts: dict[str, Any] = {}
        if work != "pretrain" and self.shared > 0.0:
            facts["first"] = tasks[0]
        if self.pretraining.snapshot is not None:
            from merge_lib.workloads.vision.data import read_snapshot

            places = (data / "pretraining" / self.pretraining.snapshot, data / "tasks" / self.snapshot)
            read = [read_snapshot(place.with_name(f"{place.name}.safetensors")) for place in places]
            facts["classes"] = list(dict.fromkeys(name for snapshot in read for name in snapshot.classes))
        return facts

    def check(self, tasks: Sequence[str]) -> None:
        """Refuse a task sequence that these settings do not fit; all faults at once.

        Raises:
            SpecError: they do not.
        """
        if not tasks or len(set(tasks)) != len(tasks):
            msg = f"The task sequence {list(tasks)} must name at least one task, each once. Correct `tasks`."
            raise SpecError(msg)
        families = [CueName.parse(task).family for task in tasks]
        check_room(tuple(tasks), self.model.image_size, self.side, spare=int(self.has_both))
        faults = self.sharing_faults(tasks)
        if self.model.channels == 1 and "colour" in families:
            faults.append("colour cues need `model.channels: 3`; grey images are repeated in each")
        if faults:
            msg = f"The workload's settings do not fit the tasks {', '.join(tasks)}: {'; '.join(faults)}."
            raise SpecError(msg)

    def create(self, *, tasks: Sequence[str], data: Path) -> Workload:
        """The workload on the snapshots in `data/tasks` and `data/pretraining`."""
        from merge_lib.workloads.cues.workload import CuesWorkload

        return CuesWorkload(self, tasks=tasks, data=data)
