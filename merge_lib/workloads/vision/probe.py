"""The vision workload as data-dependent merging sees it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from merge_lib.probe import Batch, Model, Split
from merge_lib.types import StateDict
from merge_lib.workloads.vision.config import ViTConfig
from merge_lib.workloads.vision.models import own_model
from merge_lib.workloads.vision.scenarios import ScenarioMap


@dataclass(frozen=True)
class VisionProbe:
    """Its model, images and outputs.

    Attributes:
        classes: names of the head's classes.
        sets: for each task and split the images [n, h, w] and the outputs that are right [n].
    """

    model: ViTConfig
    classes: tuple[str, ...]
    scenario: ScenarioMap
    tasks: tuple[str, ...]
    sets: Mapping[tuple[str, Split], tuple[Tensor, Tensor]]

    def module(self, state: StateDict) -> nn.Module:
        """A transformer with these weights.

        Raises:
            CheckpointMismatchError: they are not of this model.
            CheckpointCorruptError: they are not finite.
        """
        return own_model(self.model, state, classes=len(self.classes))

    def batches(self, task: str, *, split: Split, count: int, seed: int, size: int) -> Iterator[Batch]:
        """Images of a task without repetition."""
        images, targets = self.sets[task, split]
        for places in drawn(len(targets), count=count, seed=seed, size=size):
            yield Batch(images[places], targets[places], places=places)

    def logits(self, model: Model, batch: Batch, task: str) -> Float[Tensor, "b c"]:
        """The outputs that the scenario allows on the task."""
        position = torch.full_like(batch.labels, self.tasks.index(task))
        return self.scenario.outputs(model(batch.inputs), position)

    def picture(self, inputs: Tensor, row: int) -> np.ndarray:
        """Dark ink on light paper, uint8 [h, w]."""
        return ((1 - inputs[row]) * 127.5).round().to(torch.uint8).numpy()

    def outputs(self, task: str) -> tuple[str, ...]:
        """The class that each output stands for."""
        return self.scenario.names(self.tasks.index(task), self.classes)


def drawn(n: int, *, count: int, seed: int, size: int) -> Iterator[Int64[Tensor, " b"]]:
    """Rows of `count` of n examples, or of all if they are fewer, in the seed's order, at most `size` at once."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:count]
    yield from order.split(size)
