"""What a study says of its methods: the merges that it compares, a row each."""

from collections.abc import Sequence
from itertools import combinations, product
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from flows.routing_checks import check_models
from merge_lib.equalising import Equalise, check_equalised
from merge_lib.layer_scales import LayerScales
from merge_lib.routing import RoutingSettings
from merge_lib.search import Range, Search, check_search, search_model
from merge_lib.types import Name

Values = Annotated[tuple[Any, ...], Field(min_length=1)]


class CalibrationEntry(BaseModel):
    """Which inputs a method that observes data is shown, and by which model; None leaves the method's default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    examples: int | None = Field(default=None, ge=1)  # of each task
    split: Literal["train", "validation", "test"] | None = None
    rows: int | None = Field(default=None, ge=1)  # features of a layer that are kept at most
    expert_scale: float | None = None  # the model that sees the inputs is base + scale · task vector


class MethodEntry(BaseModel):
    """One row of the comparison: a registered method with its parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    label: Name = ""
    search: Search | None = None  # coefficients to be found on the validation split
    each: dict[str, Values] = Field(default_factory=dict)  # parameters of which every value makes a row
    params: dict[str, Any] = Field(default_factory=dict, validate_default=True)
    layer_scales: LayerScales | None = None  # factors on the merged task vector by depth
    equalise: Equalise | None = None  # "norms": task vectors are brought to their mean norm first
    calibration: CalibrationEntry | None = None  # what a method that observes data is shown
    routing: RoutingSettings | None = None  # how inputs find the models of a method with one for each task
    family: str = ""  # what rows that `each` made have in common: the label before it

    @model_validator(mode="before")
    @classmethod
    def _accept_bare_name(cls, value: object) -> object:
        return {"method": value} if isinstance(value, str) else value

    @field_validator("method")
    @classmethod
    def _is_registered(cls, name: str) -> str:
        from merge_lib import registry

        return registry.get(name).name

    @field_validator("search", mode="wrap")
    @classmethod
    def _search_of_method(
        cls, value: object, keep: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Search | None:
        """The ranges, each in the domain of the method's own parameter."""
        from merge_lib import registry

        if value is None or "method" not in info.data:
            return None
        method = registry.get(info.data["method"])
        given = value.model_dump(exclude_none=True) if isinstance(value, Search) else value
        try:
            return keep(check_search(method, given))
        except ValidationError as failure:
            raise _nested(method.name, failure, search_model(method)) from failure

    @field_validator("params")
    @classmethod
    def _params_of_method(cls, params: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """All parameters with their defaults, but for those that are searched."""
        from merge_lib import registry

        if "method" not in info.data:
            return params
        method = registry.get(info.data["method"])
        search = info.data.get("search")
        searched = search.params if search else {}
        each = info.data.get("each", {})
        _check_given_once(params, searched, each)
        needed = {parameter.name for parameter in method.parameters if parameter.required} & searched.keys()
        start = {name: _start_of(searched[name]) for name in needed}
        for point in _points(each):
            try:
                whole = method.params_model.model_validate({**start, **point, **params}).model_dump(
                    mode="json"
                )
            except ValidationError as failure:
                raise _nested(method.name, failure, method.params_model) from failure
        return {name: value for name, value in whole.items() if name not in searched and name not in each}

    @field_validator("routing")
    @classmethod
    def _routing_has_models(
        cls, routing: RoutingSettings | None, info: ValidationInfo
    ) -> RoutingSettings | None:
        if routing is not None and "method" in info.data:
            check_models(info.data["method"], info.data.get("params", {}))
        return routing

    @model_validator(mode="after")
    def _fill_in(self) -> Self:
        from merge_lib import registry

        if self.calibration is not None and registry.get(self.method).observation is None:
            raise ValueError(f"method '{self.method}' observes no data; leave `calibration` out")
        if self.equalise is not None:
            check_equalised(self.method)
        self._check_scales()
        object.__setattr__(self, "label", self.label or self.method)
        return self

    def rows(self) -> tuple[Self, ...]:
        """The entry itself, or one for each point of `each`, named after its values."""
        if not self.each:
            return (self,)
        settings = self.model_dump(exclude={"each", "params", "label", "family"}, exclude_none=True)
        return tuple(
            type(self).model_validate(
                {**settings, "params": {**self.params, **point}, "label": _label_at(self.label, point)}
                | {"family": self.family or self.label}
            )
            for point in _points(self.each)
        )

    def _check_scales(self) -> None:
        """Refuse fixed and searched factors by depth that exclude each other."""
        fixed, searched = self.layer_scales, self.search and self.search.layer_scales
        if fixed is None or searched is None:
            return
        if (fixed.blocks and searched.slope) or (searched.blocks and fixed.slope):
            raise ValueError(
                "`search.layer_scales` has `blocks` and `layer_scales` a `slope`, or the other way round; leave one out"
            )


def _nested(name: str, failure: ValidationError, model: type[BaseModel]) -> PydanticCustomError:
    """The errors of a method's own model, to be told at their places."""
    return PydanticCustomError(
        "nested", "settings of {name}", {"name": name, "failure": failure, "model": model}
    )


def _check_given_once(params: dict[str, Any], searched: dict[str, Any], each: dict[str, Any]) -> None:
    """Refuse a parameter that is given in two places."""
    places = {"params": params, "search.params": searched, "each": each}
    for (one, names), (other, others) in combinations(places.items(), 2):
        if twice := sorted(names.keys() & others.keys()):
            raise ValueError(f"{', '.join(twice)} stands in both `{one}` and `{other}`; leave it out of one")


def _points(each: dict[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the values; one empty point where there is nothing to combine."""
    return [dict(zip(each, values, strict=True)) for values in product(*each.values())]


def _label_at(label: str, point: dict[str, Any]) -> str:
    return "-".join([label, *(f"{name}-{value}" for name, value in point.items())])


def _start_of(span: Range | Sequence[Any]) -> Any:
    return span.low if isinstance(span, Range) else span[0]
