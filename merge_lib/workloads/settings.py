"""What the `workload:` block of a study must be able to say of itself, whatever the workload."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from merge_lib.errors import SpecError, UnknownMethodError, suggest
from merge_lib.workloads.protocol import Workload
from merge_lib.workloads.training.config import TrainingConfig

Work = Literal["pretrain", "train", "evaluate"]
Teaches = Literal["none", "full", "adapters"]


class WorkloadSettings(BaseModel):
    """Base of every workload's settings; a subclass with a new `name` is a new workload.

    A subclass must define `create`. The other methods have defaults that are safe: too much counts as changed
    rather than too little.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    known: ClassVar[dict[str, type["WorkloadSettings"]]] = {}
    routes: ClassVar[bool] = (
        False  # the workload has what `routing` by votes needs: merge_lib.workloads.Routing
    )

    name: str
    data: str = "data"  # folder with the snapshots, relative to the project's root

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Register the subclass under the one value that its `name` may have."""
        name = cls.model_fields["name"].annotation
        values = getattr(name, "__args__", ())
        if len(values) != 1:
            raise SpecError(
                f"{cls.__name__} must declare its name as `name: Literal['…']`, the word that studies use."
            )
        if (other := cls.known.get(values[0])) is not None and other.__qualname__ != cls.__qualname__:
            raise SpecError(
                f"Two workloads are named '{values[0]}': {other.__qualname__} and {cls.__qualname__}."
            )
        cls.known[values[0]] = cls

    def create(self, *, tasks: Sequence[str], data: Path) -> Workload:  # noqa: ARG002 - for subclasses
        """The workload itself, on the snapshots in `data`."""
        raise SpecError(
            f"Workload '{self.name}' does not define `create`; return an object with the Workload methods."
        )

    def teaching(self) -> Teaches:
        """Whether its models can be trained by learners (it is `Teaching`), and what of them is trained."""
        return "none"

    def task_snapshots(self, tasks: Sequence[str]) -> tuple[str, ...]:
        """Names of the snapshots that training and evaluation on the tasks read; by default one for each task."""
        return tuple(tasks)

    def pretraining_snapshots(self) -> tuple[str, ...]:
        """Names of the snapshots that the base is trained on."""
        return ()

    def probe_snapshots(self) -> tuple[str, ...]:
        """Names of the snapshots of a workload's further measurements, which evaluation reads, too."""
        return ()

    def settled(self, root: Path) -> "WorkloadSettings":  # noqa: ARG002 - likewise
        """The settings with what decides results and is found on this machine, such as the digest of a model.

        Args:
            root: the project's folder.
        """
        return self

    def root_of(self, data: Path) -> Path:
        """The project's folder, given the folder that `data` names; `data` itself where it is an absolute path."""
        place = Path(self.data)
        return (
            data if place.is_absolute() else Path(os.path.normpath(data.joinpath(*[".."] * len(place.parts))))
        )

    def parameters_of(self, work: Work) -> dict[str, Any]:  # noqa: ARG002 - a subclass may look at it
        """The settings that can change the result of one kind of work."""
        return self.model_dump(mode="json")

    def facts_of(self, work: Work, tasks: Sequence[str], data: Path) -> dict[str, Any]:  # noqa: ARG002 - likewise
        """What else decides a result: facts about the snapshots that are not the work's own inputs."""
        return {"tasks": list(tasks)}

    def code(self, work: Work) -> tuple[str, ...]:  # noqa: ARG002 - likewise
        """The modules whose source can change the result of one kind of work."""
        return (type(self).__module__,)

    def devices(self, work: Work) -> int:
        """How many processes, with a GPU each, share a training."""
        training = getattr(self, {"pretrain": "pretraining", "train": "fine_tuning"}.get(work, ""), None)
        return training.devices if isinstance(training, TrainingConfig) else 1


def parse(settings: Any) -> WorkloadSettings:
    """The settings from their plain form, by their `name`.

    Raises:
        SpecError: no workload has that name.
        ValidationError: the settings are wrong.
    """
    if isinstance(settings, WorkloadSettings):
        return settings
    name = settings.get("name") if isinstance(settings, dict) else None
    if not isinstance(name, str):
        raise SpecError(f"a workload needs a `name`; known: {', '.join(sorted(WorkloadSettings.known))}")
    if name not in WorkloadSettings.known:
        hint = suggest(name, WorkloadSettings.known)
        raise UnknownMethodError(
            f"there is no workload '{name}': {hint}. A file of yours is named under `plugins:`"
        )
    return WorkloadSettings.known[name].model_validate(settings)


def parse_in_study(settings: Any) -> WorkloadSettings:
    """As `parse`, for a field of a pydantic model: errors keep their place inside the block."""
    try:
        return parse(settings)
    except ValidationError as failure:
        model = WorkloadSettings.known[settings["name"]]
        raise PydanticCustomError(
            "nested", "workload {name}", {"name": settings["name"], "failure": failure, "model": model}
        ) from failure
