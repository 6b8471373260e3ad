"""Parts of a training as flat dicts of tensors, so that a safetensors file can hold them: no code is stored."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from merge_lib.workloads.training.curves import Curves

State = dict[str, Tensor]


def joined(parts: Mapping[str, Mapping[str, Tensor]]) -> State:
    """The tensors of all parts, each under its part's name and a slash."""
    return {f"{part}/{name}": tensor for part, state in parts.items() for name, tensor in state.items()}


def part_of(state: Mapping[str, Tensor], part: str) -> State:
    """One of the parts that were joined."""
    start = f"{part}/"
    return {name.removeprefix(start): one for name, one in state.items() if name.startswith(start)}


def moments_of(optimizer: torch.optim.Optimizer, trained: Mapping[str, nn.Parameter]) -> State:
    """What the optimiser keeps of each parameter, named "key/parameter"; those of an untouched one are left out."""
    return {
        f"{key}/{name}": value
        for name, parameter in trained.items()
        for key, value in optimizer.state[parameter].items()
    }


def restore_moments(
    optimizer: torch.optim.Optimizer, trained: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]
) -> None:
    """Undo `moments_of`."""
    optimizer.state.clear()
    for place, value in state.items():
        key, _, name = place.partition("/")
        parameter = trained[name]
        optimizer.state[parameter][key] = value.to(parameter.device, copy=True)


def copy_into(targets: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Give tensors, in place, the values that are kept under their names."""
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(state[name])


def curves_as_tensors(curves: Curves) -> State:
    """Each list exactly as it is."""
    floats = {
        name: torch.tensor(values, dtype=torch.float64)
        for name, values in vars(curves).items()
        if name != "step"
    }
    return {**floats, "step": torch.tensor(curves.step, dtype=torch.int64)}


def curves_from(state: Mapping[str, Tensor]) -> Curves:
    """Undo `curves_as_tensors`."""
    return Curves(**{name: values.tolist() for name, values in state.items()})
