"""From a recipe and the names and shapes of its models to one job for each tensor of the result."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from merge_lib.errors import CheckpointMismatchError, MethodInputError, SpecError
from merge_lib.mergekit.layers import LayerStack, Shapes, end_of, find_layers
from merge_lib.mergekit.recipe import base_of, models_of
from merge_lib.mergekit.schema import OutputSlice, Recipe, SliceSource
from merge_lib.mergekit.settings import Scalar, Setting, evaluate, has_gradient
from merge_lib.mergekit.signatures import SIGNATURES, Parameter, Signature


@dataclass(frozen=True)
class TensorInput:
    """One tensor of one model."""

    model: str
    name: str


@dataclass(frozen=True)
class TensorJob:
    """How one tensor of the result is made."""

    name: str
    method: Signature
    experts: tuple[TensorInput, ...]
    base: TensorInput | None
    params: dict[str, Any]  # the function's keywords; one value per expert as a tuple


@dataclass(frozen=True)
class Resolution:
    """The whole merge."""

    jobs: tuple[TensorJob, ...]  # by sorted name
    layers: tuple[int, ...] | None  # of the first source of its slice, for each layer of the result


@dataclass(frozen=True)
class _Place:
    """Where a tensor of the result is: its slice, its share of the way through it, its layer in the slice."""

    piece: OutputSlice
    position: float = 0.0
    layer: int | None = None
    rest: str = ""


def resolve(recipe: Recipe, shapes: Mapping[str, Shapes]) -> Resolution:
    """Work out every tensor of the result.

    Args:
        recipe: as read and checked.
        shapes: for each model of the recipe the shapes of its tensors by name.

    Returns:
        One job per tensor, with evaluated parameters.

    Raises:
        SpecError: layers are asked for but ambiguous or too few, or a required parameter is missing.
        CheckpointMismatchError: models lack tensors or have other shapes; all are listed.
        MethodInputError: the weights of a tensor add up to 0.
    """
    found = {model: find_layers(shapes[model]) for model in models_of(recipe)}
    if any(not isinstance(stack, LayerStack) for stack in found.values()):
        _refuse_layers(recipe, found)
        stacks = None
    else:
        stacks = {model: stack for model, stack in found.items() if isinstance(stack, LayerStack)}
    slices = recipe.slices or (_whole_models(recipe, stacks),)
    if stacks is not None:
        _check_ranges(slices, stacks)
    first = slices[0].sources[0].model
    jobs, problems = [], []
    for name, place in sorted(_places(slices, stacks, tuple(shapes[first])), key=lambda item: item[0]):
        inputs = {
            source.model: TensorInput(source.model, _input_name(source, name, place, stacks))
            for source in place.piece.sources
        }
        missing = list(_differences(name, inputs, shapes))
        problems += missing
        if not missing:
            jobs.append(_job(recipe, name, place, inputs))
    problems += _extra(recipe, shapes) if recipe.models else []
    if problems:
        raise CheckpointMismatchError(
            "\n".join(problems) + "\nThe models of a recipe must be of one architecture and size."
        )
    return Resolution(tuple(jobs), None if stacks is None else _layer_origins(slices))


def _whole_models(recipe: Recipe, stacks: dict[str, LayerStack] | None) -> OutputSlice:
    """`models` as a slice over all their layers, with an unlisted base as the last source."""
    entries = {entry.model: entry.parameters for entry in recipe.models or ()}
    if recipe.base_model:
        entries.setdefault(recipe.base_model, {})
    ranges = {model: (0, stacks[model].count if stacks else 0) for model in entries}
    return OutputSlice(
        sources=tuple(
            SliceSource.model_construct(model=model, layer_range=ranges[model], parameters=parameters)
            for model, parameters in entries.items()
        )
    )


def _places(
    slices: tuple[OutputSlice, ...], stacks: dict[str, LayerStack] | None, names: tuple[str, ...]
) -> Iterator[tuple[str, _Place]]:
    """Every tensor of the result; names are those of the first source of the first slice."""
    lead = slices[0].sources[0].model
    for name in names:
        if stacks is None or stacks[lead].split(name) is None:
            yield name, _Place(_slice_outside(name, slices))
    offset, rests = 0, _rests(stacks[lead], names) if stacks else []
    for piece in slices if stacks else ():
        source = piece.sources[0]
        count = source.layer_range[1] - source.layer_range[0]
        for index in range(count):
            position = index / (count - 1) if count > 1 else 1.0
            for rest in rests:
                place = _Place(piece, position, index, rest)
                yield stacks[lead].join(offset + index, rest), place  # type: ignore[index]
        offset += count


def _rests(stack: LayerStack, names: tuple[str, ...]) -> list[str]:
    return [split[1] for name in names if (split := stack.split(name)) is not None and split[0] == 0]


def _slice_outside(name: str, slices: tuple[OutputSlice, ...]) -> OutputSlice:
    if len(slices) == 1:
        return slices[0]
    end = end_of(name)
    if end is None:
        raise SpecError(
            f"Tensor '{name}' lies outside the layers, and its name does not say whether it belongs to the "
            "first or the last slice. Models with such tensors can be merged by `models` only."
        )
    return slices[0 if end == "first" else -1]


def _input_name(source: SliceSource, name: str, place: _Place, stacks: dict[str, LayerStack] | None) -> str:
    if place.layer is None or stacks is None:
        return name
    return stacks[source.model].join(source.layer_range[0] + place.layer, place.rest)


def _job(recipe: Recipe, name: str, place: _Place, inputs: Mapping[str, TensorInput]) -> TensorJob:
    signature = SIGNATURES[recipe.merge_method]
    base = base_of(recipe, place.piece.base_model)
    sources = [source for source in place.piece.sources if source.model != base]
    params: dict[str, Any] = {
        parameter.argument: _value(recipe, parameter, name, place, None) for parameter in signature.shared
    }
    for parameter in signature.per_model:
        params[parameter.argument] = tuple(
            _value(recipe, parameter, name, place, source) for source in sources
        )
    if signature.elect is not None:
        params["elect"] = signature.elect
    divides = (signature.name == "linear" and params["normalize"]) or params.get("normalize_weights", False)
    if divides and sum(params["weight"]) == 0:
        raise MethodInputError(
            f"The weights of tensor '{name}' are {list(params['weight'])}, which add up to 0, and the result is "
            "divided by their sum. Change a weight, or turn the division off."
        )
    experts = tuple(inputs[source.model] for source in sources)
    return TensorJob(name, signature, experts, inputs[base] if base else None, params)


def _value(
    recipe: Recipe, parameter: Parameter, name: str, place: _Place, source: SliceSource | None
) -> Scalar:
    """The nearest block that says something: the model's, the slice's, the recipe's; else the default."""
    blocks: list[Mapping[str, Setting]] = [place.piece.parameters, recipe.parameters]
    if source is not None:
        blocks.insert(0, source.parameters)
    for block in blocks:
        if parameter.name in block:
            value = evaluate(block[parameter.name], name, place.position)
            if value is not None:
                return int(value) if parameter.kind == "integer" else value
    if parameter.default is None:
        whose = f" of model '{source.model}'" if source else ""
        raise SpecError(
            f"Parameter `{parameter.name}`{whose} has no value for tensor '{name}'. Method "
            f"'{recipe.merge_method}' needs one; give it, or end its cases with one without a filter."
        )
    return parameter.default


def _differences(name: str, inputs: Mapping[str, TensorInput], shapes: Mapping[str, Shapes]) -> Iterator[str]:
    """Sources that lack the tensor or have it in another shape than the first."""
    expected = None
    for given in inputs.values():
        shape = shapes[given.model].get(given.name)
        if shape is None:
            yield f"Tensor '{given.name}' is missing in model '{given.model}', and '{name}' is made of it."
            continue
        expected = expected or (given, shape)
        if shape != expected[1]:
            yield (
                f"Tensor '{given.name}' has shape {shape} in model '{given.model}' but {expected[1]} in model "
                f"'{expected[0].model}'."
            )


def _extra(recipe: Recipe, shapes: Mapping[str, Shapes]) -> list[str]:
    """Tensors that the first model lacks, which would be lost."""
    first, *others = models_of(recipe)
    return [
        f"Tensor '{name}' is in model '{model}' but not in model '{first}'."
        for model in others
        for name in sorted(set(shapes[model]) - set(shapes[first]))
    ]


def _refuse_layers(recipe: Recipe, found: Mapping[str, LayerStack | tuple[str, ...]]) -> None:
    """Where layers matter they must be known."""
    gradients = any(has_gradient(setting) for _, block, _ in recipe.blocks() for setting in block.values())
    if not recipe.slices and not gradients:
        return
    model, prefixes = next((m, p) for m, p in found.items() if not isinstance(p, LayerStack))
    choice = f"several stacks: {', '.join(prefixes)}" if prefixes else "no stack"
    what = "slices" if recipe.slices else "a list of numbers over the layers"
    raise SpecError(
        f"The recipe has {what}, but the tensor names of model '{model}' show {choice} of layers. Only models "
        "with one stack of layers have an order of layers; use plain values and filters by name."
    )


def _check_ranges(slices: tuple[OutputSlice, ...], stacks: Mapping[str, LayerStack]) -> None:
    problems = [
        f"`slices.{i}` takes the layers {list(source.layer_range)} of model '{source.model}', which has "
        f"{stacks[source.model].count}."
        for i, piece in enumerate(slices)
        for source in piece.sources
        if source.layer_range[1] > stacks[source.model].count
    ]
    counts = {
        source.layer_range[1] - source.layer_range[0] for piece in slices[:1] for source in piece.sources
    }
    if len(counts) > 1:
        problems.append(f"The models have {sorted(counts)} layers. Models are merged layer by layer.")
    if problems:
        raise SpecError("\n".join(problems))


def _layer_origins(slices: tuple[OutputSlice, ...]) -> tuple[int, ...]:
    return tuple(layer for piece in slices for layer in range(*piece.sources[0].layer_range))
