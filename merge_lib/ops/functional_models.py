"""A model's parameters as a mixture of experts, and the gradient of the mixture's weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from merge_lib.types import StateDict

Loss = Callable[["Weighted"], Tensor]


@dataclass(frozen=True)
class Weighted:
    """A module that is called with weights of one's own."""

    module: nn.Module
    weights: Mapping[str, Tensor]

    def __call__(self, *args: object, **kwargs: object) -> Any:
        """What the module gives with these weights: a tensor, or what models of transformers give."""
        return functional_call(self.module, dict(self.weights), args, kwargs)


@dataclass(frozen=True)
class TaskVectors:
    """Base and task vectors of a model's parameters, in float32.

    Attributes:
        module: with the base's weights.
        vectors: by parameter name, [n, *shape].
    """

    module: nn.Module
    vectors: Mapping[str, Float[Tensor, " n *shape"]]

    @classmethod
    def of(cls, module: nn.Module, base: StateDict, experts: Sequence[StateDict]) -> "TaskVectors":
        """Those of the tensors that are parameters of the module."""
        vectors = {
            name: torch.stack([expert[name].float() - base[name].float() for expert in experts])
            for name, _ in module.named_parameters()
        }
        return cls(module, vectors)

    @cached_property
    def base(self) -> dict[str, Tensor]:
        """The module's own parameters."""
        return {name: parameter.detach() for name, parameter in self.module.named_parameters()}

    def gradients(self, combine: Callable[[str], Tensor], loss: Loss) -> tuple[float, dict[str, Tensor]]:
        """A loss at base + combined task vectors, and its gradient by parameter.

        Args:
            combine: the merged task vector of the parameter of that name.
            loss: of the model with those weights.
        """
        weights = {name: (value + combine(name)).requires_grad_() for name, value in self.base.items()}
        value = loss(Weighted(self.module, weights))
        gradients = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
        found = {
            name: torch.zeros_like(weights[name]) if gradient is None else gradient
            for name, gradient in zip(weights, gradients, strict=True)
        }
        return float(value.detach()), found
