"""What routing asks of a model: features of inputs and of classes in one space."""

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from merge_lib.probe import Split
from merge_lib.types import StateDict

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class Encoder(Protocol):
    """A model with two sides; a class answers an input by the cosine of their features."""

    def inputs(self, task: str, *, split: Split, rows: "Tensor | None" = None) -> "Tensor":
        """[n, d]: unit features of a task's inputs, of all or of those rows of the split."""
        ...

    def classes(self, task: str) -> "Tensor":
        """[c, d]: of each class that a task's inputs may be answered with, the mean of the unit features of its texts.

        It is not brought to length 1.
        """
        ...


@runtime_checkable
class Routing(Protocol):
    """A workload whose inputs can find the models that know them best; without it, a vote is refused.

    Its settings say so, too: `WorkloadSettings.routes`.
    """

    def encoder(self, tensors: StateDict) -> Encoder:
        """A model as features of inputs and of classes, in one space."""
        ...

    def labels(self, task: str, *, split: Split) -> "Tensor":
        """[n]: the class of each input of a task's split, as a place among `Encoder.classes`."""
        ...

    def own_classes(self, task: str) -> "Tensor":
        """[k]: which of `Encoder.classes` are the task's own; all, unless those of other tasks are answers, too."""
        ...
