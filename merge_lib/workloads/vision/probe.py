"""The vision workload as data-dependent merging sees it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from merge_lib.probe import Batch, Model, Split
from merge_lib.types import StateDict
from merge_lib.workloads.vision.config import ViTConfig
from merge_lib.workloads.vision.model import check_state, empty_model
from merge_lib.workloads.vision.scenarios import ScenarioMap


@dataclass(frozen=True)
class VisionProbe:
    """Its model, images and outputs.

    Attributes:
        sets: for each task and split the images [n, h, w] and the outputs that are right [n].
    """

    model: ViTConfig
    classes: int
    scenario: ScenarioMap
    tasks: tuple[str, ...]
    sets: Mapping[tuple[str, Split], tuple[Tensor, Tensor]]

    def module(self, state: StateDict) -> nn.Module:
        """A transformer with these weights.

        Raises:
            CheckpointMismatchError: they are not of this model.
            CheckpointCorruptError: they are not finite.
        """
        model = empty_model(self.model, classes=self.classes)
        check_state(state, model.state_dict(), "The state dict")
        model.load_state_dict({name: tensor.float().clone() for name, tensor in state.items()}, assign=True)
        return model.eval()

    def batches(self, task: str, *, split: Split, count: int, seed: int, size: int) -> Iterator[Batch]:
        """Images of a task without repetition."""
        images, targets = self.sets[task, split]
        order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))[:count]
        for places in order.split(size):
            yield Batch(images[places], targets[places])

    def logits(self, model: Model, batch: Batch, task: str) -> Float[Tensor, "b c"]:
        """The outputs that the scenario allows on the task."""
        position = torch.full_like(batch.labels, self.tasks.index(task))
        return self.scenario.outputs(model(batch.inputs), position)
