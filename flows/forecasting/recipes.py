"""Recipes as merges that a forecast compares: what they say, and other methods on the same experts."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from flows.recipe import load_recipe
from flows.yaml_errors import YamlDocument
from merge_lib import registry
from merge_lib.errors import SpecError, suggest
from merge_lib.forecast.measuring import Candidate
from merge_lib.forecast.theirs import opened_recipe
from merge_lib.spec import MergeSpec

ALL = "all"


def candidates_of(
    stack: ExitStack,
    recipes: Sequence[Path],
    *,
    methods: Sequence[str],
    base: Path | None = None,
    seed: int | None = None,
) -> list[Candidate]:
    """The merges of some recipes, ours or mergekit's, then other methods on the experts of the first.

    Args:
        stack: keeps the checkpoints of mergekit's recipes open.
        recipes: YAML files; all must name the same base and experts, in the same order.
        methods: names of registered methods with the parameters that are usual; `all` stands for every one that
            needs no data.
        base: for recipes without one.
        seed: of mergekit's random methods.

    Raises:
        SpecError: all that is wrong with the recipes or the methods, or a seed is given that none of them uses.
    """
    if not recipes:
        raise SpecError("A forecast needs a recipe. Give one or more YAML files, ours or mergekit's.")
    own = [_candidate(stack, path, base, seed) for path in recipes]
    if seed is not None and all(one.made is None for one in own):
        raise SpecError(
            "--seed is of mergekit's recipes, and none was given. Write `seed:` in the recipe instead."
        )
    if repeated := sorted({one.label for one in own if [o.label for o in own].count(one.label) > 1}):
        raise SpecError(f"Two recipes are called {', '.join(repeated)}. Rename one of the files.")
    return [*own, *_others(own, methods)]


def _candidate(stack: ExitStack, path: Path, base: Path | None, seed: int | None) -> Candidate:
    if "merge_method" in YamlDocument.read(path).root:
        return stack.enter_context(opened_recipe(path, base=base, seed=seed or 0))
    spec = load_recipe(path)
    if spec.base is None and base is not None:
        spec = MergeSpec(**{**_fields(spec), "base": base})
    return Candidate(path.stem, spec)


def _others(own: Sequence[Candidate], names: Sequence[str]) -> Iterator[Candidate]:
    """The methods that are asked for, but those that a recipe has with the same parameters."""
    spec = own[0].spec
    known = [(one.spec.method, one.spec.params) for one in own if one.made is None]
    labels = {one.label for one in own}
    for name in _named(names):
        fields = {
            **_fields(spec),
            "method": name,
            "params": {},
            **dict.fromkeys(("layer_scales", "equalise", "fitted")),
        }
        other = MergeSpec(**{**fields, "observations": ()})
        if (name, other.params) not in known:
            yield Candidate(f"{name} (usual)" if name in labels else name, other)


def _named(names: Sequence[str]) -> list[str]:
    """Registered names, each once.

    Raises:
        SpecError: one is unknown, or needs data, all told at once.
    """
    free = [info.name for info in registry.methods() if info.data == "none"]
    found = dict.fromkeys(name for asked in names for name in (free if asked == ALL else [asked]))
    problems = [
        f"There is no merge method '{name}': {suggest(name, free)}."
        if name not in registry.names()
        else f"Method '{name}' needs data ({registry.get(name).data}). Give a recipe of it with what it observed."
        for name in found
        if name not in free
    ]
    if problems:
        raise SpecError("\n".join(problems))
    return list(found)


def _fields(spec: MergeSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in MergeSpec.model_fields}
