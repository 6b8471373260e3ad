"""The workload as data-dependent merging sees it: each task's images with its cue."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from merge_lib.probe import Batch, Model, Split
from merge_lib.types import StateDict
from merge_lib.workloads.cues.measuring import shown
from merge_lib.workloads.cues.views import View
from merge_lib.workloads.vision.config import ViTConfig
from merge_lib.workloads.vision.models import own_model
from merge_lib.workloads.vision.probe import drawn


@dataclass(frozen=True)
class CueProbe:
    """Its model, images and outputs.

    Attributes:
        model: sizes of the transformer.
        classes: of its head.
        names: of the images' classes, in the order of their labels.
        columns: of the head's outputs those of the images' classes [c].
        views: how the images are shown for each task.
        examples: a split's images without cues and their classes [n].
    """

    model: ViTConfig
    classes: int
    names: tuple[str, ...]
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
            yield Batch(shown(self.views[task], images[rows], labels[rows]), labels[rows], places=rows)

    def logits(self, model: Model, batch: Batch, task: str) -> Float[Tensor, "b c"]:  # noqa: ARG002 - all alike
        """The outputs for the images' classes."""
        return model(batch.inputs)[:, self.columns]

    def picture(self, inputs: Tensor, row: int) -> np.ndarray:
        """With its cue, uint8, [h, w] in grey or [h, w, 3]."""
        shades = ((1 + inputs[row]) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return (shades.permute(1, 2, 0) if shades.ndim == 3 else 255 - shades).numpy()

    def outputs(self, task: str) -> tuple[str, ...]:  # noqa: ARG002 - all alike
        """The class that each output stands for."""
        return self.names
