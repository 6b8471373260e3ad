"""The workload as data-dependent merging sees it: each task's images, and the logits of its head."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from merge_lib.probe import Batch, Model, Split
from merge_lib.types import StateDict
from merge_lib.workloads.clip.heads import Targets
from merge_lib.workloads.clip.model import class_logits, class_weights
from merge_lib.workloads.clip.subjects import ImageSet
from merge_lib.workloads.pretrained.models import PretrainedModels
from merge_lib.workloads.vision.probe import drawn


@dataclass(frozen=True)
class ClipProbe:
    """Its models, images and heads.

    Attributes:
        models: of checkpoints.
        sets: images by task.
        targets: head of each task.
        ids: tokens of each task's prompts [p, l].
    """

    models: PretrainedModels
    sets: Mapping[str, ImageSet]
    targets: Mapping[str, Targets]
    ids: Mapping[str, Int64[Tensor, "p l"]]

    def module(self, state: StateDict) -> nn.Module:
        """A CLIP with these tensors, which are its parameters; what the checkpoint does not hold are buffers.

        Raises:
            CheckpointMismatchError: they are not of this model.
            CheckpointCorruptError: they are not finite.
        """
        return self.models.observed(state)

    def batches(self, task: str, *, split: Split, count: int, seed: int, size: int) -> Iterator[Batch]:
        """Images of a task without repetition."""
        images = self.sets[task]
        right = self.targets[task].of(images.labels(split))
        for rows in drawn(len(right), count=count, seed=seed, size=size):
            yield Batch(images.images(split, rows), right[rows], places=rows)

    def logits(self, model: Model, batch: Batch, task: str) -> Float[Tensor, "b c"]:
        """CLIP's logits for the classes of the task's head, whose texts are encoded on the way."""
        found = model(pixel_values=batch.inputs, input_ids=self.ids[task])
        weights = class_weights(found.texts, self.targets[task].head.average)
        return class_logits(found.images, weights, found.scale)

    def picture(self, inputs: Tensor, row: int) -> np.ndarray:
        """In colour, uint8 [h, w, 3]."""
        normal = next(iter(self.sets.values())).form.normal
        shades = normal.undone(inputs[row : row + 1])[0]
        return (shades * 255.0).round().to(torch.uint8).permute(1, 2, 0).numpy()

    def outputs(self, task: str) -> tuple[str, ...]:
        """The class that each output stands for."""
        return self.targets[task].head.names
