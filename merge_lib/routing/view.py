"""What a model sees of one task: features of its inputs and of its classes, kept as a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from merge_lib.checkpoints import read_state_dict, write_state_dict
from merge_lib.probe import Split
from merge_lib.routing.encoder import Encoder, Routing
from merge_lib.routing.prototypes import prototypes

DRAWN_WITH = 0  # the seed by which some of a split's inputs are chosen


@dataclass(frozen=True)
class BaseView:
    """One task as the frozen base sees it.

    Attributes:
        inputs: [n, d]; unit features.
        labels: [n]; the class of each.
        classes: [c, d]; means of the unit features of the texts of the classes that may be answers.
        own: [k]; which of these are the task's.
    """

    inputs: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]
    classes: Float[Tensor, "c d"]
    own: Int[Tensor, " k"]

    @classmethod
    def of(
        cls,
        workload: Routing,
        encoder: Encoder,
        task: str,
        *,
        split: Split,
        examples: int | None = None,
    ) -> "BaseView":
        """The view of a split's inputs, or of as many of them as `examples` says, drawn at random.

        Args:
            workload: of the task.
            encoder: the base.
            task: which.
            split: of its snapshot.
            examples: None: all.
        """
        classes, labels, own = (
            encoder.classes(task),
            workload.labels(task, split=split),
            workload.own_classes(task),
        )
        if examples is None or examples >= len(labels):
            return cls(encoder.inputs(task, split=split), labels, classes, own)
        rows = torch.randperm(len(labels), generator=torch.Generator().manual_seed(DRAWN_WITH))[:examples]
        rows = rows.sort().values
        seen = encoder.inputs(task, split=split, rows=rows) if examples else classes[:0]
        return cls(seen, labels[rows], classes, own)

    def prototypes(self) -> Float[Tensor, "k d"]:
        """The task's prototypes."""
        return prototypes(self.classes, self.inputs, self.labels)[self.own]

    def save(self, path: Path, lineage: dict[str, Any]) -> None:
        """Write to a file."""
        write_state_dict(
            path, {name: tensor.contiguous() for name, tensor in vars(self).items()}, lineage=lineage
        )

    @classmethod
    def load(cls, path: Path) -> "BaseView":
        """Read what `save` wrote."""
        return cls(**read_state_dict(path))
