"""Folding experts into the state of a continual method, one expert after another, tensor by tensor."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from merge_lib.arithmetic import Inputs, Merge, accepted
from merge_lib.states import SpilledStates

Step = Callable[[Inputs], Any]
Keep = Callable[[Inputs, Any], None]


def one_by_one(inputs: Iterable[Inputs], step: Step, keep: Keep) -> None:
    """Each tensor's step, and what is kept of it, in order."""
    for one in inputs:
        keep(one, step(one))


def leave(_inputs: Inputs, _merged: Tensor) -> None:
    """Nobody wants the merged tensor."""


@dataclass
class Folded:
    """What a continual method keeps after some experts.

    Attributes:
        shared: what it keeps of the whole model; None for a method with scope "tensor".
        states: its state of each tensor, by name.
        folder: for states that memory does not hold.
    """

    merge: Merge
    shared: Any
    states: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    complete: ClassVar[bool] = True  # as the statistics of a merge: it is made when all experts are folded in

    @classmethod
    def begin(cls, merge: Merge, folder: Path | None = None) -> "Folded":
        """Before the first expert."""
        shared = merge.method.implementation.shared
        return cls(merge, None if shared is None else shared.begin(), folder=folder)

    def add(
        self,
        inputs: Iterable[Inputs],
        take: Callable[[Inputs, Tensor], None] = leave,
        each: Callable[[Iterable[Inputs], Step, Keep], None] = one_by_one,
    ) -> None:
        """Fold in one expert.

        Args:
            inputs: every tensor of it.
            take: told each tensor's inputs and merged tensor, or task vector, by a method with scope "tensor".
            each: goes through the tensors; steps may be taken side by side, but what they give is kept in order.
        """
        shared = self.merge.method.implementation.shared
        states = SpilledStates(self.folder)
        sums: Tensor | float = 0.0

        def keep(one: Inputs, found: tuple[Any, Any]) -> None:
            nonlocal sums
            first, second = found
            if shared is None:
                take(one, first)
                states.put(one.layer.name, second)
            else:
                states.put(one.layer.name, first)
                sums = sums + second.double()

        each(inputs, self._step, keep)
        self.states = states
        if shared is not None and len(states):
            self.shared = shared.settle(self.shared, sums)

    def read(self, name: str) -> Tensor:
        """The merged tensor, or task vector, as it stands; of a method with scope "model"."""
        read = self.merge.method.implementation.shared.read  # type: ignore[union-attr]
        return read(self.states[name], self.shared, **accepted(read, self.merge.params))

    def _step(self, inputs: Inputs) -> tuple[Any, Any]:
        name = inputs.layer.name
        init = self.merge.method.implementation.init
        state = self.states[name] if name in self.states else init(inputs.wide_base)  # type: ignore[misc]
        with self.merge.named(inputs):
            return self.merge.steps(inputs, state, self.shared, 0)
