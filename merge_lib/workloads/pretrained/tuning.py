"""What is trained of a model, and what of it a checkpoint holds.

A checkpoint has one of three forms, told apart by the names in it:
- whole: every tensor under the name that `save_pretrained` gives it, tied ones once;
- factors: A and B of every adapted layer, under peft's names;
- products: W + (alpha / rank) · B A of every adapted layer, under the name of W.
"""

from collections import defaultdict
from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from merge_lib.checkpoints.adapters import PREFIX
from merge_lib.checkpoints.tied import preferred_name
from merge_lib.errors import SpecError
from merge_lib.types import StateDict
from merge_lib.workloads.pretrained.adapters import (
    adapted_layers,
    draw,
    inject,
    product,
    stored_name,
    target_layers,
    weights_of,
)
from merge_lib.workloads.pretrained.config import TuningConfig
from merge_lib.workloads.states import check_state


def prepare(model: nn.Module, tuning: TuningConfig, *, seed: int) -> nn.Module:
    """The model itself, ready to be trained: with fresh adapters where the settings ask for them.

    A model that has its adapters already gets fresh ones: B = 0, A drawn from the seed. The model computes the same
    as without them.

    Raises:
        SpecError: a target of the adapters names no layer, or one that cannot be adapted.
    """
    if tuning.lora is None:
        return model.requires_grad_(True)
    if not adapted_layers(model):
        inject(model, tuning.lora)
    draw(model, seed=seed)
    for name, parameter in _parameters(model).items():
        parameter.requires_grad_(name.startswith(PREFIX))
    return model


def trained_parameters(
    model: nn.Module, tuning: TuningConfig, *, without: Sequence[str] = ()
) -> dict[str, nn.Parameter]:
    """The parameters to train, by their names in checkpoints; the others stop requiring a gradient.

    Args:
        model: prepared.
        tuning: as it was prepared.
        without: glob patterns of parameters, or names of modules, that keep their values, such as "logit_scale".

    Raises:
        SpecError: a pattern names no parameter of the model, or none is left to train.
    """
    parameters = _parameters(model)
    kept = _matched(list(parameters), without)
    trained = {
        name: parameter
        for name, parameter in parameters.items()
        if name not in kept and (tuning.lora is None or name.startswith(PREFIX))
    }
    if not trained:
        raise SpecError(f"`without` {list(without)} leaves no parameter to train. Leave at least one.")
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in trained)
    return trained


def state_of(model: nn.Module, tuning: TuningConfig) -> StateDict:
    """What a checkpoint of the model holds: all of it, the factors or the products; shared with the model if it can.

    Args:
        model: prepared, and trained or not.
        tuning: as it was prepared.
    """
    if tuning.lora is not None and tuning.lora.space == "product":
        layers = sorted(adapted_layers(model).items())
        return {f"{name}.weight": product(layer) for name, layer in layers}
    is_factor = tuning.lora is not None
    held = sorted(held_tensors(model).items())
    return {name: tensor.detach() for name, tensor in held if name.startswith(PREFIX) == is_factor}


def overlay(model: nn.Module, tensors: StateDict, *, called: str, tuning: TuningConfig | None = None) -> None:
    """Write a checkpoint's tensors into the model.

    Args:
        model: with adapters or, for whole checkpoints and products, without.
        tensors: of one of the three forms.
        called: what messages call them, such as "Checkpoint 'a'".
        tuning: needed for products in a model without adapters, which does not know which layers they are of.

    Raises:
        CheckpointMismatchError: a name is missing or unknown, or a shape differs; every one is listed.
        CheckpointCorruptError: values are not finite.
    """
    with torch.no_grad():
        for name, place in places_of(model, tensors, called=called, tuning=tuning).items():
            place.copy_(tensors[name])


def places_of(
    model: nn.Module, tensors: StateDict, *, called: str, tuning: TuningConfig | None = None
) -> dict[str, Tensor]:
    """For each of a checkpoint's tensors the model's own that it belongs into, checked as in `overlay`."""
    held = held_tensors(model)
    expected = _expected(model, held, tensors, tuning)
    check_state(tensors, expected, called)
    return expected


def in_a_call(
    model: nn.Module, tensors: StateDict, *, called: str, tuning: TuningConfig | None = None
) -> dict[str, Tensor]:
    """The tensors as `torch.func.functional_call` takes them, in the model's dtypes; checked as in `overlay`."""
    places = places_of(model, tensors, called=called, tuning=tuning)
    names = {id(tensor): held for held, tensor in model.state_dict(keep_vars=True).items()}
    return {names[id(place)]: tensors[name].to(place.dtype) for name, place in places.items()}


def held_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters and buffers by their names in checkpoints; tied ones once."""
    same: dict[int, list[str]] = defaultdict(list)
    tensors: dict[str, Tensor] = {}
    for held, tensor in model.state_dict(keep_vars=True).items():
        name = stored_name(held)
        tensors[name] = tensor
        same[id(tensor)].append(name)
    kept = {preferred_name(names) for names in same.values()}
    return {name: tensor for name, tensor in tensors.items() if name in kept}


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: held for name, held in held_tensors(model).items() if isinstance(held, nn.Parameter)}


def _expected(
    model: nn.Module, held: dict[str, Tensor], tensors: StateDict, tuning: TuningConfig | None
) -> dict[str, Tensor]:
    """What a checkpoint of that form holds of this model."""
    if any(name.startswith(PREFIX) for name in tensors):
        return {name: tensor for name, tensor in held.items() if name.startswith(PREFIX)}
    lora = tuning.lora if tuning is not None else None
    layers = adapted_layers(model) or (() if lora is None else target_layers(model, lora))
    products = weights_of(layers)
    if products and set(tensors) <= set(products):
        return {name: held[name] for name in products}
    return {name: tensor for name, tensor in held.items() if not name.startswith(PREFIX)}


def _matched(names: Sequence[str], patterns: Sequence[str]) -> set[str]:
    """The parameters that a pattern names; an adapter's factors are named as their layer is."""
    found: set[str] = set()
    for pattern in patterns:
        matched = {name for name in names if _matches(name.removeprefix(PREFIX), pattern)}
        if not matched:
            raise SpecError(
                f"`without` pattern '{pattern}' names no parameter of the model; known: {', '.join(names)}."
            )
        found |= matched
    return found


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
