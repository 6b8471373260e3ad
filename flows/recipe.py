"""A merge's recipe, ours or mergekit's, read from YAML and checked whole: every error at once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from flows.yaml_errors import YamlDocument, explain
from merge_lib import registry
from merge_lib.equalising import Equalise, check_equalised
from merge_lib.errors import SpecError
from merge_lib.layer_scales import LayerScales
from merge_lib.mergekit import plan_recipe, read_recipe
from merge_lib.mergekit.signatures import SIGNATURES
from merge_lib.spec import MergeSpec, OutputDtype
from merge_lib.streaming.planning import MergePlan, make_plan
from merge_lib.types import Seed


class Recipe(BaseModel):
    """The keys of a recipe; paths are relative to its file."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    method: str
    params: dict[str, Any] = Field(default_factory=dict)
    base: Path | None = None
    experts: Annotated[tuple[Path, ...], Field(min_length=1)]
    seed: Seed = 0
    exclude: tuple[str, ...] = ()
    dtype: OutputDtype | None = None
    layer_scales: LayerScales | None = None
    equalise: Equalise | None = None
    observations: tuple[Path, ...] = ()
    fitted: Path | None = None

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
        if self.equalise is not None:
            check_equalised(self.method)
        return self


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe that says what it means.

    Attributes:
        method: what messages call the merge.
        plan: reads the headers of its checkpoints, and raises all that is wrong with them.
    """

    method: str
    plan: Callable[[], MergePlan]


def load_any_recipe(path: Path, seed: int | None = None) -> LoadedRecipe:
    """Read a recipe of ours, or one of mergekit's, which has the key `merge_method`.

    Args:
        path: the YAML file.
        seed: of the random draws of mergekit's methods, whose recipes have no key for it.

    Raises:
        SpecError: all that is wrong with it, or with giving it a seed.
    """
    document = YamlDocument.read(path)
    if "merge_method" in document.root:
        return _load_mergekit(path, seed)
    if "method" not in document.root:
        raise SpecError(
            f"{path} has neither `method`, as our recipes, nor `merge_method`, as mergekit's. Give one of them."
        )
    if seed is not None:
        raise SpecError(f"--seed was given, but {path} has a key for it. Write `seed: {seed}` in the recipe.")
    spec = load_recipe(path)
    return LoadedRecipe(spec.method, partial(make_plan, spec))


def find_recipes(folder: Path, seed: int | None = None) -> dict[str, Callable[[], MergePlan]]:
    """What makes the plan of each recipe in a folder, ours or mergekit's, by the recipe's name without its ending.

    Args:
        folder: its YAML files are recipes; folders in it are not looked into.
        seed: of those of mergekit's recipes that draw at random.

    Raises:
        SpecError: there is no recipe, two have one name, or none has a use for the seed.
    """
    paths = sorted(path for path in folder.glob("*") if path.suffix in (".yaml", ".yml") and path.is_file())
    if not paths:
        raise SpecError(f"{folder} holds no recipe. Give --many a folder with .yaml or .yml files.")
    stems = [path.stem for path in paths]
    twins = [str(path) for path in paths if stems.count(path.stem) > 1]
    if twins:
        raise SpecError(f"{' and '.join(twins)} would be merged into one folder. Rename one of them.")
    random = {path for path in paths if seed is not None and _draws_in_mergekit(path)}
    if seed is not None and not random:
        raise SpecError(
            f"--seed was given, but no mergekit recipe in {folder} draws at random. Leave it out."
        )
    return {path.stem: partial(_plan, path, seed if path in random else None) for path in paths}


def _plan(path: Path, seed: int | None) -> MergePlan:
    return load_any_recipe(path, seed).plan()


def _draws_in_mergekit(path: Path) -> bool:
    """Whether it is a recipe of mergekit's with a method that draws at random; False where it cannot be read."""
    try:
        method = YamlDocument.read(path).plain().get("merge_method")
    except SpecError:
        return False
    return method in SIGNATURES and SIGNATURES[method].randomised


def _load_mergekit(path: Path, seed: int | None) -> LoadedRecipe:
    recipe = read_recipe(path)
    if seed is not None and not SIGNATURES[recipe.merge_method].randomised:
        random = ", ".join(sorted(name for name, signature in SIGNATURES.items() if signature.randomised))
        raise SpecError(
            f"--seed was given, but '{recipe.merge_method}' draws nothing at random. Leave it out; only {random} do."
        )
    make = partial(plan_recipe, recipe, path.parent, seed=seed or 0)
    return LoadedRecipe(f"mergekit.{recipe.merge_method}", make)


def load_recipe(path: Path) -> MergeSpec:
    """Read a recipe of ours.

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
    fields["observations"] = tuple(folder / one for one in recipe.observations)
    fields["fitted"] = None if recipe.fitted is None else folder / recipe.fitted
    fields["base"] = None if recipe.base is None else folder / recipe.base
    return MergeSpec(**fields)
