"""A merge's recipe, read from YAML and checked whole: every error at once, with its line."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from flows.yaml_errors import YamlDocument, explain
from merge_lib import registry
from merge_lib.errors import SpecError
from merge_lib.spec import MergeSpec, OutputDtype
from merge_lib.types import Seed


class Recipe(BaseModel):
    """The keys of a recipe; paths are relative to its file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    params: dict[str, Any] = Field(default_factory=dict)
    base: Path | None = None
    experts: Annotated[tuple[Path, ...], Field(min_length=1)]
    seed: Seed = 0
    exclude: tuple[str, ...] = ()
    dtype: OutputDtype | None = None

    @model_validator(mode="after")
    def _check_params(self) -> Self:
        info = registry.get(self.method)
        try:
            info.params_model.model_validate(self.params)
        except ValidationError as failure:
            inner = {"failure": failure, "model": info.params_model, "prefix": ("params",)}
            raise PydanticCustomError(
                "nested", "parameters of {name}", {"name": self.method, **inner}
            ) from failure
        return self


def load_recipe(path: Path) -> MergeSpec:
    """Read a recipe.

    Raises:
        SpecError: all that is wrong with it, each with its line.
    """
    document = YamlDocument.read(path)
    try:
        recipe = Recipe.model_validate(document.plain())
    except ValidationError as failure:
        raise SpecError(explain(failure, document, Recipe)) from failure
    folder = path.parent
    fields = recipe.model_dump()
    fields["experts"] = tuple(folder / expert for expert in recipe.experts)
    fields["base"] = None if recipe.base is None else folder / recipe.base
    return MergeSpec(**fields)
