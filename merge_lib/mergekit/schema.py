"""What a mergekit recipe holds: the YAML's fields, nothing beside them; imports no torch."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from merge_lib.errors import SpecError, suggest
from merge_lib.mergekit.settings import Choice, Gradient, Setting, read_setting, write_setting

DtypeName = Literal["float64", "float32", "float16", "bfloat16"]
Parameters = dict[
    str,
    Annotated[
        bool | int | float | Gradient | Choice, BeforeValidator(read_setting), PlainSerializer(write_setting)
    ],
]

REFUSED = {
    "chat_template": "Leave it out; the base's own chat template is kept.",
    "modules": "Recipes over several modules of a model are not supported; merge each by itself.",
    "tokenizer": "Only `tokenizer_source: base` is supported; merge models that share a tokenizer.",
}


class Part(BaseModel):
    """A piece of the recipe: frozen, no other fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), defer_build=True)


class ModelEntry(Part):
    """A whole model of `models`."""

    model: str
    parameters: Parameters = Field(default_factory=dict)


class SliceSource(Part):
    """Some layers of a model: from the first number up to, not including, the second."""

    model: str
    layer_range: tuple[int, int]
    parameters: Parameters = Field(default_factory=dict)


class OutputSlice(Part):
    """Consecutive layers of the result."""

    sources: tuple[SliceSource, ...] = Field(min_length=1)
    base_model: str | None = None
    parameters: Parameters = Field(default_factory=dict)


class Recipe(Part):
    """A whole recipe; read one with `read_recipe`, which checks more than the fields."""

    merge_method: str
    models: tuple[ModelEntry, ...] | None = None
    slices: tuple[OutputSlice, ...] | None = None
    base_model: str | None = None
    parameters: Parameters = Field(default_factory=dict)
    dtype: DtypeName | None = None
    out_dtype: DtypeName | None = None
    tokenizer_source: Literal["base"] | None = None

    def blocks(self) -> list[tuple[str, dict[str, Setting], bool]]:
        """Every `parameters` block: where it is, what it holds, whether it is a model's own."""
        found = [("parameters", self.parameters, False)]
        found += [
            (f"models.{i}.parameters", entry.parameters, True) for i, entry in enumerate(self.models or ())
        ]
        for i, piece in enumerate(self.slices or ()):
            found.append((f"slices.{i}.parameters", piece.parameters, False))
            found += [
                (f"slices.{i}.sources.{j}.parameters", source.parameters, True)
                for j, source in enumerate(piece.sources)
            ]
        return found


def build_recipe(content: Any) -> tuple[Recipe | None, list[str]]:
    """The recipe, or what is wrong with its fields.

    Raises:
        SpecError: the YAML is not a mapping.
    """
    if not isinstance(content, dict):
        raise SpecError("The recipe is not a mapping. It starts with `merge_method:`.")
    try:
        return Recipe.model_validate(content), []
    except ValidationError as exc:
        return None, [_describe(problem) for problem in exc.errors()]


def _describe(problem: Any) -> str:
    """One of pydantic's findings as one of ours."""
    steps = [step for step in problem["loc"] if not str(step).startswith("function-")]
    where = ".".join(str(step) for step in steps)
    if problem["type"] == "extra_forbidden":
        name = str(steps[-1])
        if len(steps) == 1 and name in REFUSED:
            return f"`{where}` is not supported. {REFUSED[name]}"
        return f"`{where}` is not a field of a recipe: {suggest(name, _fields(steps))}."
    if where == "tokenizer_source":
        return (
            f"`tokenizer_source` is {problem['input']!r}, which is not supported. Write `base`, or leave it "
            "out; models with other tokenizers cannot be merged here."
        )
    cause = problem.get("ctx", {}).get("error")
    return f"`{where}` {cause}." if cause else f"`{where}`: {problem['msg']}, got {problem.get('input')!r}."


def _fields(steps: list[Any]) -> list[str]:
    """The fields that there are where a wrong one was found."""
    kind: type[BaseModel] = Recipe
    if steps[0] == "models":
        kind = ModelEntry
    elif steps[0] == "slices" and len(steps) > 1:
        kind = SliceSource if "sources" in steps else OutputSlice
    return list(kind.model_fields)
