"""What data-dependent merging asks of a workload: its model, a task's inputs, and logits."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from merge_lib.errors import DataError
from merge_lib.types import StateDict

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

Split = Literal["train", "validation", "test"]
Model = Callable[..., Any]  # a module, or one that is called with weights of one's own


@dataclass(frozen=True)
class Batch:
    """Some examples of one task.

    Attributes:
        inputs: what the workload's model takes.
        labels: [b], the right outputs of `Probe.logits`.
        is_token: [b, s], False where a position is padding; None where there is none.
        places: [b], where each example lies in its split; None where that is not known.
    """

    inputs: Any
    labels: "Tensor"
    is_token: "Tensor | None" = None
    places: "Tensor | None" = None


@runtime_checkable
class Probe(Protocol):
    """A workload seen from a merge: nothing is trained or written."""

    def module(self, state: StateDict) -> "nn.Module":
        """A model of its own with these weights, in float32 and evaluation mode, parameters named as in the state."""
        ...

    def batches(self, task: str, *, split: Split, count: int, seed: int, size: int) -> Iterator[Batch]:
        """`count` examples of a task, or all if there are fewer, drawn with the seed, at most `size` a batch."""
        ...

    def logits(self, model: "Model", batch: Batch, task: str) -> "Tensor":
        """[b, c], one column for each answer that the task allows; differentiable in the model's parameters."""
        ...


@runtime_checkable
class Picturing(Protocol):
    """A probe whose examples are pictures."""

    def picture(self, inputs: Any, row: int) -> "np.ndarray":
        """One example of a batch's inputs as people see it: uint8, [h, w] in grey or [h, w, 3]."""
        ...


@runtime_checkable
class Telling(Protocol):
    """A probe whose examples are texts."""

    def text(self, inputs: Any, row: int) -> str:
        """One example of a batch's inputs as people read it."""
        ...


@runtime_checkable
class Naming(Protocol):
    """A probe whose outputs have names."""

    def outputs(self, task: str) -> tuple[str, ...]:
        """What each column of `Probe.logits` stands for on a task."""
        ...


Showing = Picturing | Telling


def drawn(probe: Probe, task: str, *, split: Split, count: int, seed: int, size: int) -> list[Batch]:
    """`Probe.batches`, all at once and none of them empty.

    Raises:
        DataError: the task has no examples in that split.
    """
    batches = probe.batches(task, split=split, count=count, seed=seed, size=size)
    found = [batch for batch in batches if len(batch.labels)]
    if not found:
        raise DataError(
            f"Task '{task}' has no examples in its {split} split, but merging needs some. "
            "Name another split, or leave out the methods that need data."
        )
    return found
