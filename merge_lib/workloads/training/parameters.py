"""Which parameters are trained."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from merge_lib.errors import SpecError


def trainable_parameters(model: nn.Module, freeze: Sequence[str]) -> dict[str, nn.Parameter]:
    """The parameters that no pattern of `freeze` names, by name; the others stop requiring a gradient.

    A pattern is a glob on the parameter's name, or the name of a module, which stands for all in it.

    Raises:
        SpecError: a pattern names no parameter, or none is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    frozen: set[str] = set()
    for pattern in freeze:
        matched = [n for n in names if fnmatchcase(n, pattern) or fnmatchcase(n, f"{pattern}.*")]
        if not matched:
            msg = f"`freeze` pattern '{pattern}' names no parameter of the model; known: {', '.join(names)}."
            raise SpecError(msg)
        frozen.update(matched)
    if len(frozen) == len(names):
        msg = f"`freeze` {list(freeze)} names every parameter of the model. Leave at least one to train."
        raise SpecError(msg)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
