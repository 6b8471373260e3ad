"""The workload as data-dependent merging sees it: each task's images with its cue."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor, nn

from merge_lib.probe import Batch, Model, Split
from merge_lib.types import StateDict
from merge_lib.workloads.cues.measuring import View
from merge_lib.workloads.vision.config import ViTConfig
from merge_lib.workloads.vision.models import own_model
from merge_lib.workloads.vision.probe import drawn


@dataclass(frozen=True)
class CueProbe:
    """Its model, images and outputs.

    Attributes:
        model: sizes of the transformer.
        classes: of its head.
        columns: of the head's outputs those of the images' classes [c].
        views: how the images are shown for each task.
        examples: a split's images without cues and their classes [n].
    """

    model: ViTConfig
    classes: int
    columns: Int64[Tensor, " c"]
    views: Mapping[str, View]
    examples: Callable[[Split], tuple[Tensor, Tensor]]

    def module(self, state: StateDict) -> nn.Module:
        """A transformer with these weights."""
        return own_model(self.model, state, classes=self.classes)

    def batches(self, task: str, *, split: Split, count: int, seed: int, size: int) -> Iterator[Batch]:
        """Images of a task without repetition, as it is evaluated: right labels, all with the cue."""
        images, labels = self.examples(split)
        for rows in drawn(len(labels), count=count, seed=seed, size=size):
            yield Batch(self.views[task].shown(images[rows], labels[rows]), labels[rows])

    def logits(self, model: Model, batch: Batch, task: str) -> Float[Tensor, "b c"]:  # noqa: ARG002 - all alike
        """The outputs for the images' classes."""
        return model(batch.inputs)[:, self.columns]
