"""LoRA adapters inside a model: put in by peft, drawn from a seed, found again under the names that peft gives them."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from merge_lib.checkpoints.adapters import PREFIX
from merge_lib.errors import SpecError
from merge_lib.workloads.pretrained.config import LoraConfig

NAME = "default"  # of the one adapter that a model has
WRAPPED = ".base_layer."
LAYERS = (nn.Linear, Conv1D)


def inject(model: nn.Module, lora: LoraConfig) -> None:
    """Put an adapter into every layer that the settings name; the model computes the same as before.

    Raises:
        SpecError: a target names no layer, or one that cannot be adapted.
    """
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    chosen = target_layers(model, lora)
    config = PeftConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type] -- peft only divides it by the rank
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        fan_in_fan_out=stores_in_out(model, chosen),
    )
    with torch.random.fork_rng(devices=[]):  # what peft draws is drawn again from a seed of ours
        inject_adapter_in_model(config, model, adapter_name=NAME)


def draw(model: nn.Module, *, seed: int) -> None:
    """Start the model's adapters afresh: B = 0, A uniform within ±1/√in, layer by layer in the order of their names."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, layer in sorted(adapted_layers(model).items()):
            a, b = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight  # [r, in], [out, r]
            bound = 1.0 / math.sqrt(a.shape[1])
            a.copy_(torch.empty(a.shape).uniform_(-bound, bound, generator=generator))
            b.zero_()


def adapted_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers with adapters, by the names they have without."""
    from peft.tuners.lora import LoraLayer

    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}


def target_layers(model: nn.Module, lora: LoraConfig) -> tuple[str, ...]:
    """Names of the layers that the settings name, whether they have adapters yet or not.

    Raises:
        SpecError: a target names no layer, or one that cannot be adapted; all are listed.
    """
    adapted = adapted_layers(model)
    layers = {name: module for name, module in model.named_modules() if not _is_inside(name, adapted)}
    problems, chosen = [], []
    for target in lora.targets:
        matched = [name for name in layers if name == target or name.endswith(f".{target}")]
        fitting = [name for name in matched if name in adapted or isinstance(layers[name], LAYERS)]
        chosen += fitting
        if not matched:
            problems.append(f"`{target}` is the end of no layer's name")
        problems += [
            f"`{target}` names {name}, a {type(layers[name]).__name__}"
            for name in matched
            if name not in fitting
        ]
    if problems:
        endings = sorted({_ending(name) for name, module in layers.items() if isinstance(module, LAYERS)})
        raise SpecError(
            f"LoRA targets do not fit the model: {'; '.join(problems)}. Layers that can be adapted end in: "
            f"{', '.join(endings)}."
        )
    return tuple(sorted(set(chosen)))


def stores_in_out(model: nn.Module, layers: Sequence[str]) -> bool:
    """Whether the layers hold their weights as [in, out], as those of GPT-2 do: `fan_in_fan_out` of peft.

    Args:
        model: without adapters.
        layers: names of `target_layers`.
    """
    return all(isinstance(model.get_submodule(name), Conv1D) for name in layers)


def product(layer: nn.Module) -> Tensor:
    """W + (alpha / rank) · B A of an adapted layer, in the shape of W."""
    return layer.base_layer.weight.detach() + layer.get_delta_weight(NAME).detach()


def fold_in(model: nn.Module) -> nn.Module:
    """The model itself without adapters: each adapted layer holds W + (alpha / rank) · B A instead."""
    for name, layer in adapted_layers(model).items():
        whole = layer.base_layer
        with torch.no_grad():
            whole.weight.copy_(product(layer))
        model.set_submodule(name, whole)
    return model


def stored_name(held: str) -> str:
    """The name in a checkpoint of a tensor that the model holds under this name."""
    for factor in ("lora_A", "lora_B"):
        if f".{factor}.{NAME}." in held:
            return PREFIX + held.replace(f".{factor}.{NAME}.", f".{factor}.")
    return held.replace(WRAPPED, ".")


def weights_of(layers: Iterable[str]) -> list[str]:
    """Names of the layers' matrices in a checkpoint."""
    return [f"{layer}.weight" for layer in layers]


def _is_inside(name: str, adapted: Sequence[str] | dict[str, nn.Module]) -> bool:
    """Whether a module is a part of an adapted layer."""
    return any(name.startswith(f"{layer}.") for layer in adapted)


def _ending(name: str) -> str:
    return name.rpartition(".")[2]
