"""A method's parameters as data: read from its signature, kept in the index, turned into a pydantic model."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.fields import FieldInfo

from merge_lib.errors import SpecError, suggest

Kind = Literal["number", "integer", "boolean", "string"]

_PYTHON_TYPES: dict[Kind, type] = {"number": float, "integer": int, "boolean": bool, "string": str}
_KINDS = {python_type: kind for kind, python_type in _PYTHON_TYPES.items()}


@dataclass(frozen=True)
class Parameter:
    """One keyword-only argument of a method."""

    name: str
    kind: Kind
    required: bool
    default: float | int | bool | str | None = None
    bounds: Mapping[str, float] = field(default_factory=dict)  # gt, ge, lt, le
    choices: tuple[str, ...] = ()
    description: str = ""

    @property
    def domain(self) -> str:
        """The allowed values in words, such as "a number in (0, 1]"."""
        if self.choices:
            return "one of " + ", ".join(f"'{choice}'" for choice in self.choices)
        if self.kind == "number" and not self.bounds:
            return "a finite number"
        article = "an" if self.kind == "integer" else "a"
        return f"{article} {self.kind}{_interval(self.bounds)}"

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        return cls(**{**fields, "choices": tuple(fields["choices"])})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "choices": list(self.choices), "bounds": dict(self.bounds)}

    def pydantic_field(self) -> tuple[Any, FieldInfo]:
        """What `pydantic.create_model` takes for this parameter."""
        annotation = Literal[self.choices] if self.choices else _PYTHON_TYPES[self.kind]
        options: dict[str, Any] = {**self.bounds, "description": self.description}
        if self.kind == "number":
            options["allow_inf_nan"] = False
        return annotation, Field(default=... if self.required else self.default, **options)


def _interval(bounds: Mapping[str, float]) -> str:
    """Bounds as an interval, with a leading " in ", or nothing."""
    if not bounds:
        return ""
    low = f"({bounds['gt']:g}" if "gt" in bounds else f"[{bounds['ge']:g}" if "ge" in bounds else "(-inf"
    high = f"{bounds['lt']:g})" if "lt" in bounds else f"{bounds['le']:g}]" if "le" in bounds else "inf)"
    return f" in {low}, {high}"


def read_parameter(parameter: inspect.Parameter, owner: str, description: str = "") -> Parameter:
    """Describe one keyword-only argument, or refuse it at import."""
    if parameter.annotation is inspect.Parameter.empty:
        raise SpecError(
            f"Parameter '{parameter.name}' of method '{owner}' has no type. "
            "Every keyword-only argument is annotated; use an alias of merge_lib.types."
        )
    info = FieldInfo.from_annotation(parameter.annotation)
    choices = tuple(get_args(info.annotation)) if get_origin(info.annotation) is Literal else ()
    kind = "string" if choices else _KINDS.get(info.annotation)  # type: ignore[arg-type]
    if kind is None:
        raise SpecError(
            f"Parameter '{parameter.name}' of method '{owner}' has the type {info.annotation}, which a study "
            "cannot hold. Use float, int, bool, str or a Literal of strings."
        )
    bounds = {
        key: getattr(constraint, key)
        for constraint in info.metadata
        for key in ("gt", "ge", "lt", "le")
        if hasattr(constraint, key)
    }
    required = parameter.default is inspect.Parameter.empty
    default = None if required else parameter.default
    return Parameter(parameter.name, kind, required, default, bounds, choices, description)


def describe_arguments(function: Callable[..., Any]) -> dict[str, str]:
    """The "Args:" section of a Google docstring, as name -> text."""
    described: dict[str, str] = {}
    name, inside = "", False
    for line in inspect.cleandoc(function.__doc__ or "").splitlines():
        if line and not line.startswith(" "):
            inside, name = line == "Args:", ""
        elif inside and line.startswith("    ") and not line.startswith("     "):
            name, _, text = line.strip().partition(": ")
            described[name] = text
        elif inside and name and line.strip():
            described[name] += " " + line.strip()
    return described


def build_model(method: str, parameters: tuple[Parameter, ...]) -> type[BaseModel]:
    """The pydantic model of a method's parameters: strict, frozen, nothing extra."""
    fields: dict[str, Any] = {parameter.name: parameter.pydantic_field() for parameter in parameters}
    config = ConfigDict(extra="forbid", frozen=True, strict=True)
    return create_model(f"{method}_params", __config__=config, **fields)


def check_params(
    method: str, model: type[BaseModel], parameters: tuple[Parameter, ...], given: Mapping[str, Any]
) -> dict[str, Any]:
    """All parameters with their defaults; every problem in one SpecError."""
    try:
        return model.model_validate(dict(given)).model_dump()
    except ValidationError as exc:
        problems = [_explain(method, parameters, problem) for problem in exc.errors()]
        raise SpecError("\n".join(problems)) from exc


def _explain(method: str, parameters: tuple[Parameter, ...], problem: Any) -> str:
    """One pydantic error in our words."""
    name = str(problem["loc"][0])
    known = {parameter.name: parameter for parameter in parameters}
    if problem["type"] == "extra_forbidden":
        hint = suggest(name, known) if known else "it takes none"
        return f"Method '{method}' has no parameter '{name}': {hint}."
    if problem["type"] == "missing":
        return f"Parameter '{name}' of method '{method}' is missing. Give {known[name].domain}."
    return (
        f"Parameter '{name}' of method '{method}' is {problem['input']!r}, "
        f"but must be {known[name].domain}. Change it in `params`."
    )
