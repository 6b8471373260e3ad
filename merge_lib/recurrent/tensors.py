"""Dicts of tensors that belong together: the same names, the same shapes."""

import torch
from torch import Tensor

from merge_lib.errors import MethodInputError
from merge_lib.types import StateDict


def check_alike(**given: StateDict) -> None:
    """Refuse dicts whose names or shapes differ from those of the first.

    Args:
        given: each under the word that messages call it by.

    Raises:
        MethodInputError: lists every difference, or there is no tensor at all.
    """
    (first, expected), *others = given.items()
    if not expected:
        raise MethodInputError(
            f"`{first}` holds no tensor. Give the trainable ones of the model, such as those of its adapter."
        )
    problems = [line for word, found in others for line in _differences(first, expected, word, found)]
    if problems:
        raise MethodInputError("\n".join([*problems, "Give the same trainable tensors to every call."]))


def widened(tensor: Tensor) -> Tensor:
    """In float32, or as it is if that is float64; without its history."""
    detached = tensor.detach()
    return detached if detached.dtype == torch.float64 else detached.float()


def copied(tensors: StateDict) -> dict[str, Tensor]:
    """In memory of its own, which later steps of an optimiser do not reach."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def all_finite(tensors: StateDict) -> bool:
    """Whether no entry is NaN or infinite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


def norm_of(tensors: StateDict) -> float:
    """Euclidean norm over all entries, in float64."""
    return sum(float(tensor.double().square().sum()) for tensor in tensors.values()) ** 0.5


def _differences(first: str, expected: StateDict, word: str, found: StateDict) -> list[str]:
    lines = [
        f"`{word}` lacks tensor '{name}', which `{first}` has." for name in expected if name not in found
    ]
    lines += [
        f"`{word}` has tensor '{name}', which `{first}` lacks." for name in found if name not in expected
    ]
    for name in expected.keys() & found.keys():
        theirs, ours = tuple(found[name].shape), tuple(expected[name].shape)
        if theirs != ours:
            lines.append(f"Tensor '{name}' has shape {theirs} in `{word}`, but {ours} in `{first}`.")
    return sorted(lines)
