"""Folding experts into a state that spans the model, one expert after another."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from merge_lib.arithmetic import Inputs, Merge, accepted


@dataclass
class Folded:
    """What a continual method with scope "model" keeps after some experts.

    Attributes:
        states: the method's state of each tensor, by name.
        shared: what it keeps of the whole model.
    """

    merge: Merge
    shared: Any
    states: dict[str, Any] = field(default_factory=dict)
    complete: ClassVar[bool] = True  # as the statistics of a merge: it is made when all experts are folded in

    @classmethod
    def begin(cls, merge: Merge) -> "Folded":
        """Before the first expert."""
        return cls(merge, merge.method.implementation.shared.begin())  # type: ignore[union-attr]

    def add(self, row: int, inputs: Iterable[Inputs]) -> None:
        """Fold in one expert, tensor by tensor."""
        implementation = self.merge.method.implementation
        sums: Tensor | float = 0.0
        for one in inputs:
            name = one.layer.name
            state = self.states.get(name) or implementation.init(one.wide_base)  # type: ignore[misc]
            self.states[name], addends = self.merge.steps(one, state, self.shared, row)
            sums = sums + addends.to(torch.float64)
        self.shared = implementation.shared.settle(self.shared, sums)  # type: ignore[union-attr]

    def read(self, name: str) -> Tensor:
        """The merged tensor, or task vector, as it stands."""
        read = self.merge.method.implementation.shared.read  # type: ignore[union-attr]
        return read(self.states[name], self.shared, **accepted(read, self.merge.params))
