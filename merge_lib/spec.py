"""What to merge and how, as plain validated values."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from merge_lib import registry
from merge_lib.calibration.fitted import read_fitted_lineage
from merge_lib.calibration.manifest import read_manifest
from merge_lib.equalising import Equalise, check_equalised
from merge_lib.errors import SpecError, UnknownMethodError
from merge_lib.layer_scales import LayerScales
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
    layer_scales: LayerScales | None = None  # factors on the merged task vector by depth; they need the base
    equalise: Equalise | None = (
        None  # "norms": all task vectors are brought to their mean norm before the merge
    )
    observations: tuple[
        Path, ...
    ] = ()  # a folder of `merge_lib.calibration` for each expert, if the method needs it
    fitted: Path | None = None  # what the method learned before (`merge_lib.fitting`), if it learns

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
    def _check_data(self) -> Self:
        info = registry.get(self.method)
        kind, given, wanted = info.observation, len(self.observations), len(self.experts)
        if given != (wanted if kind else 0):
            takes = (
                f"a folder of observations of kind '{kind}' for each expert" if kind else "no observations"
            )
            raise SpecError(
                f"Method '{self.method}' takes {takes}, but {given} were given for {wanted} experts. "
                "Correct `observations`, or run the method in a study, which collects them."
            )
        if info.is_fitted and self.fitted is None:
            raise SpecError(
                f"Method '{self.method}' learns from data first, but `fitted` names no file. "
                "Run the method in a study, which does that."
            )
        if self.fitted is not None and not info.is_fitted:
            raise SpecError(f"Method '{self.method}' learns nothing, but `fitted` is given. Leave it out.")
        return self

    @model_validator(mode="after")
    def _check_equalised(self) -> Self:
        if self.equalise is not None:
            check_equalised(self.method)
        return self

    @model_validator(mode="after")
    def _check_base(self) -> Self:
        if self.base is None:
            check_base_is_there(self.method, exclude=self.exclude, is_scaled=self.layer_scales is not None)
        return self


def check_base_is_there(method: str, *, exclude: tuple[str, ...], is_scaled: bool = False) -> None:
    """Refuse a merge without a base that needs one."""
    if is_scaled:
        raise SpecError(
            "`layer_scales` works on the merged task vector (merged − base) but no base is given. Give the `base`."
        )
    if registry.get(method).needs_base:
        raise SpecError(
            f"Method '{method}' works on task vectors (expert − base) but no base is given. Give the `base`."
        )
    if exclude:
        raise SpecError(
            f"`exclude` names {', '.join(exclude)}, which are left as in the base, but no base is given. "
            "Give the `base` or empty `exclude`."
        )


def told_beside(spec: MergeSpec) -> dict[str, Any]:
    """Layer scales, equalising and data as JSON values, where there are any.

    Raises:
        CheckpointCorruptError: a folder of observations cannot be read.
        SpecError: one holds another kind than the method needs.
    """
    told: dict[str, Any] = {}
    if spec.layer_scales is not None:
        told["layer_scales"] = spec.layer_scales.model_dump(mode="json")
    if spec.equalise is not None:
        told["equalise"] = spec.equalise
    if spec.observations:
        manifests = [(folder, read_manifest(folder)) for folder in spec.observations]
        for folder, manifest in manifests:
            manifest.check_kind(registry.get(spec.method).observation or "", folder)
        told["observations"] = [manifest.told for _, manifest in manifests]
    if spec.fitted is not None:
        told["fitted"] = read_fitted_lineage(spec.fitted)
    return told


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
