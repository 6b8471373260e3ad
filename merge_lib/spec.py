"""What to merge and how, as plain validated values."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from merge_lib import registry
from merge_lib.errors import SpecError, UnknownMethodError
from merge_lib.types import Seed

OutputDtype = Literal["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]


class MergeSpec(BaseModel):
    """One merge: a method with its parameters, the base, the experts in order, and what to leave alone.

    Raises:
        UnknownMethodError: no method has that name.
        SpecError: anything else is wrong; every problem is listed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    method: str
    params: dict[str, Any] = Field(default_factory=dict)  # after validation: with every default
    base: Path | None = None
    experts: tuple[Path, ...] = Field(min_length=1)
    seed: Seed = 0
    exclude: tuple[str, ...] = ()  # names or patterns (`head.*`) of tensors to leave as in the base
    dtype: OutputDtype | None = None  # of floating tensors in the result; None: as in the base, else expert 0

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as exc:
            raise _spec_error(exc) from exc

    @model_validator(mode="before")
    @classmethod
    def _fill_in_params(cls, fields: Any) -> Any:
        if not isinstance(fields, Mapping) or not isinstance(fields.get("method"), str):
            return fields  # the fields' own checks say what is wrong
        info = registry.get(fields["method"])
        return {**fields, "params": info.check_params(fields.get("params") or {})}

    @model_validator(mode="after")
    def _check_base(self) -> Self:
        if self.base is None:
            check_base_is_there(self.method, exclude=self.exclude)
        return self


def check_base_is_there(method: str, *, exclude: tuple[str, ...]) -> None:
    """Refuse a merge without a base that needs one."""
    if registry.get(method).needs_base:
        raise SpecError(
            f"Method '{method}' works on task vectors (expert − base) but no base is given. Give the `base`."
        )
    if exclude:
        raise SpecError(
            f"`exclude` names {', '.join(exclude)}, which are left as in the base, but no base is given. "
            "Give the `base` or empty `exclude`."
        )


def _spec_error(exc: ValidationError) -> SpecError:
    """Pydantic's findings as one error of ours."""
    lines = []
    for problem in exc.errors():
        cause = problem.get("ctx", {}).get("error")
        if isinstance(cause, UnknownMethodError):
            return cause
        where = ".".join(str(part) for part in problem["loc"])
        lines.append(str(cause) if isinstance(cause, SpecError) else f"`{where}`: {problem['msg']}.")
    return SpecError("\n".join(lines))
