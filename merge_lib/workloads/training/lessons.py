"""What a training asks of that which is learned."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]
"""Tensors by name, all with the same leading dimension: the examples."""


@runtime_checkable
class Lesson(Protocol):
    """Examples, and the loss of a model on some of them.

    Attributes:
        size: how many examples there are.
    """

    size: int

    def batch(self, rows: Tensor, generator: torch.Generator) -> Batch:
        """The examples of these rows on the CPU, augmented by draws from the generator."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean over the batch's units, with gradients; the batch is where the model is."""
        ...

    def units(self, batch: Batch) -> int:
        """How many the mean is over: examples, or words to predict."""
        ...
