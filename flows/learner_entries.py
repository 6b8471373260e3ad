"""What a study says of its learners: ways of training along the sequence, a row each."""

from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from merge_lib.types import Name
from merge_lib.workloads import WorkloadSettings, learners
from merge_lib.workloads.learners import LearnerSettings


class LearnerEntry(BaseModel):
    """One learner with its parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learner: str
    label: Name = ""
    params: dict[str, Any] = Field(default_factory=dict, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _accept_bare_name(cls, value: object) -> object:
        return {"learner": value} if isinstance(value, str) else value

    @field_validator("learner")
    @classmethod
    def _is_registered(cls, name: str) -> str:
        return learners.get(name).name

    @field_validator("params")
    @classmethod
    def _params_of_learner(cls, params: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """All parameters, with their defaults."""
        if "learner" not in info.data:
            return params
        model = learners.get(info.data["learner"])
        try:
            return model.model_validate(params).model_dump(mode="json")
        except ValidationError as failure:
            raise PydanticCustomError(
                "nested", "settings of {name}", {"name": model.name, "failure": failure, "model": model}
            ) from failure

    @model_validator(mode="after")
    def _fill_in(self) -> Self:
        object.__setattr__(self, "label", self.label or self.learner)
        return self

    @property
    def settings(self) -> LearnerSettings:
        """The learner, set up."""
        return learners.get(self.learner).model_validate(self.params)


def check_taught(entries: tuple[LearnerEntry, ...], workload: WorkloadSettings) -> None:
    """Refuse learners that the workload's models cannot be trained by.

    Raises:
        ValueError: names them all.
    """
    able = workload.teaching()
    asked = [entry for entry in entries if entry.settings.module]
    if able == "none" and asked:
        raise ValueError(
            f"workload '{workload.name}' can be trained sequentially only, not by {_labels(asked)}; take them out"
        )
    if asked and workload.devices("train") > 1:
        raise ValueError(
            f"{_labels(asked)} trains on one device, but the workload's `devices` is {workload.devices('train')}; set "
            "it to 1, or take the learners out"
        )
    adapted = [entry for entry in asked if entry.settings.needs_adapters]
    if able == "full" and adapted:
        raise ValueError(
            f"{_labels(adapted)} needs low-rank adapters, but workload '{workload.name}' trains full weights here; "
            "give it LoRA settings, if it has any, or take the learner out"
        )


def _labels(entries: list[LearnerEntry]) -> str:
    return ", ".join(f"'{entry.label}'" for entry in entries)
