"""Reading a mergekit recipe: all that can be said without opening a checkpoint; imports no torch."""

import logging
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from merge_lib.errors import SpecError, UnknownMethodError, suggest
from merge_lib.mergekit.schema import Recipe, build_recipe
from merge_lib.mergekit.settings import scalars
from merge_lib.mergekit.signatures import IGNORED, SIGNATURES, Parameter, Signature

_log = logging.getLogger(__name__)


def read_recipe(path: Path) -> Recipe:
    """The recipe in a YAML file.

    Raises:
        SpecError: the file cannot be read, is no YAML, or its recipe is wrong; every problem is listed.
        UnknownMethodError: no such method.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise SpecError(f"Recipe {path} cannot be read: {exc}. Check the path.") from exc
    return parse_recipe(text, label=str(path))


def parse_recipe(text: str, *, label: str = "recipe") -> Recipe:
    """The recipe that a YAML text holds.

    Raises:
        SpecError: as `read_recipe`.
        UnknownMethodError: no such method.
    """
    try:
        content = YAML(typ="safe", pure=True).load(text)
    except YAMLError as exc:
        raise SpecError(f"{label} is not YAML: {exc}. Correct the syntax.") from exc
    recipe, problems = build_recipe(content)
    method = recipe.merge_method if recipe else content.get("merge_method")
    if isinstance(method, str) and method not in SIGNATURES:
        raise UnknownMethodError(f"{label}: `merge_method` is '{method}': {suggest(method, SIGNATURES)}.")
    if recipe is not None:
        problems = [*_check_structure(recipe), *_check_parameters(recipe), *_check_counts(recipe)]
    if recipe is None or problems:
        raise SpecError(f"{label} cannot be used:\n" + "\n".join(f"- {problem}" for problem in problems))
    if any(IGNORED & set(block) for _, block, _ in recipe.blocks()):
        _log.warning("%s sets int8_mask, which changes no result here and is ignored.", label)
    return recipe


def models_of(recipe: Recipe) -> tuple[str, ...]:
    """Every model of the recipe, in the order of its first mention, the base last where it is not listed."""
    names = [entry.model for entry in recipe.models or ()]
    for piece in recipe.slices or ():
        names += [source.model for source in piece.sources]
    return tuple(dict.fromkeys([*names, *([recipe.base_model] if recipe.base_model else [])]))


def base_of(recipe: Recipe, own: str | None = None) -> str | None:
    """The base of the task vectors; None for methods that merge it like any other model."""
    return None if SIGNATURES[recipe.merge_method].base == "a model" else own or recipe.base_model


def _check_structure(recipe: Recipe) -> Iterator[str]:
    if bool(recipe.models) == bool(recipe.slices):
        yield "A recipe has either `models` or `slices`, and at least one entry in it. Keep one of the two."
    for name in models_of(recipe):
        if "@" in name:
            yield (
                f"Model '{name}' names a revision, which is not supported. Give the path of a local folder or "
                "file."
            )
        elif not all(name.split("+")) or name.count("+") > 1:
            yield f"Model '{name}' is neither a model nor a model and an adapter, as in `model+adapter`."
    for i, piece in enumerate(recipe.slices or ()):
        sizes = {source.layer_range[1] - source.layer_range[0] for source in piece.sources}
        if len(sizes) > 1 or min(sizes) < 1 or any(source.layer_range[0] < 0 for source in piece.sources):
            ranges = ", ".join(str(list(source.layer_range)) for source in piece.sources)
            yield (
                f"`slices.{i}` has the layer ranges {ranges}. They must be equally long, at least one layer, "
                "and start at 0 or later."
            )


def _check_counts(recipe: Recipe) -> Iterator[str]:
    """The number of models, and the base."""
    signature = SIGNATURES[recipe.merge_method]
    groups = [("`models`", [entry.model for entry in recipe.models or ()], recipe.base_model)]
    if recipe.slices:
        groups = [
            (
                f"`slices.{i}`",
                [source.model for source in piece.sources],
                piece.base_model or recipe.base_model,
            )
            for i, piece in enumerate(recipe.slices)
        ]
    for where, names, base in groups:
        yield from _check_group(signature, where, names, base, sliced=bool(recipe.slices))


def _check_group(
    signature: Signature, where: str, names: list[str], base: str | None, *, sliced: bool
) -> Iterator[str]:
    if len(set(names)) < len(names):
        yield f"{where} names a model twice. Name each once; put layers of one model in slices of their own."
    if signature.base == "required" and base is None:
        yield f"Method '{signature.name}' needs a base. Give `base_model`."
    if signature.base == "a model":
        count = len(names) + (base is not None and base not in names and not sliced)
    else:
        count = len([name for name in names if name != base])
        if sliced and base is not None and base not in names:
            yield f"{where} has no source from the base '{base}'. Add its layers to the sources."
    if count < signature.fewest or (signature.most is not None and count > signature.most):
        most = "or more" if signature.most is None else f"to {signature.most}"
        expected = (
            str(signature.fewest) if signature.fewest == signature.most else f"{signature.fewest} {most}"
        )
        beside = "" if signature.base == "a model" else " beside the base"
        yield f"{where} has {count} models{beside}. Method '{signature.name}' takes {expected}."


def _check_parameters(recipe: Recipe) -> Iterator[str]:
    signature = SIGNATURES[recipe.merge_method]
    shared = {parameter.name for parameter in signature.shared}
    for where, block, own in recipe.blocks():
        for name, setting in block.items():
            if name in IGNORED:
                continue
            if name not in signature.parameters:
                known = suggest(name, signature.parameters) if signature.parameters else "it has none"
                yield f"`{where}.{name}` is not a parameter of '{signature.name}': {known}."
            elif own and name in shared:
                yield (
                    f"`{where}.{name}` is one value for the whole merge. Move it to the `parameters` of the "
                    "recipe or slice."
                )
            else:
                yield from _check_values(where, signature.parameters[name], list(scalars(setting)))


def _check_values(where: str, parameter: Parameter, values: list[float | int | bool]) -> Iterator[str]:
    wrong = [value for value in values if not parameter.accepts(value)]
    if wrong:
        yield f"`{where}.{parameter.name}` is {wrong[0]!r}, which is not {parameter.domain}."
