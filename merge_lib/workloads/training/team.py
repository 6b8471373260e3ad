"""Processes that train one model together: each has the whole model, and a share of every batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from merge_lib.workloads.training.lessons import Batch


@dataclass(frozen=True)
class Team:
    """This process among those that train together.

    Attributes:
        size: how many they are.
        place: which of them this is.
    """

    size: int = 1
    place: int = 0

    @classmethod
    def present(cls) -> "Team":
        """The team that this process was started in; a team of one if it was started alone."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_world_size(), distributed.get_rank())
        return cls()

    @property
    def leads(self) -> bool:
        """Whether it is this process that saves, writes and reports."""
        return self.place == 0

    def share(self, batch: Batch) -> Batch:
        """The examples that this process is to compute, neighbours in the batch; maybe none."""
        return {name: one.tensor_split(self.size)[self.place] for name, one in batch.items()}

    def add_up(self, value: Tensor) -> Tensor:
        """The sum over the team, in place."""
        if self.size > 1:
            distributed.all_reduce(value)
        return value

    def add_up_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give every process the sum of all gradients; who has none of a parameter counts as 0.

        What no process has a gradient of stays without one.
        """
        if self.size == 1:
            return
        known = self.add_up(
            torch.tensor([float(one.grad is not None) for one in parameters]).to(parameters[0].device)
        )
        for parameter, count in zip(parameters, known.tolist(), strict=True):
            if count:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                self.add_up(parameter.grad)

    def agree(self, value: float) -> float:
        """What the leader has."""
        if self.size == 1:
            return value
        told = [value]
        distributed.broadcast_object_list(told, src=0)
        return told[0]
