"""Images as the training loop takes them: batches with augmentation, and their loss.

Legend: n images of a training set, b of a batch, k channels (no such dimension where the model is grey), h = w image
size, c classes of the model's head, o outputs that the loss is over.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from merge_lib.workloads.training.lessons import Batch
from merge_lib.workloads.vision.config import ImageTrainingConfig

Outputs = Callable[[Float[Tensor, "b c"], Int64[Tensor, " b"]], Float[Tensor, "b o"]]
"""From logits and the index of each image's task to the outputs that its target is one of."""
Stamp = Callable[[Float[Tensor, "b *k h w"], Int64[Tensor, " b"]], Float[Tensor, "b *k h w"]]
"""What is written over augmented images, given their rows in the training set."""


@dataclass(frozen=True)
class TrainingSet:
    """Images in [-1, 1], the output that is right for each, and the index of the task each belongs to."""

    images: Float[Tensor, "n *k h w"]
    targets: Int64[Tensor, " n"]
    task: Int64[Tensor, " n"]


@dataclass(frozen=True)
class ImageLesson:
    """Images to be told apart.

    Attributes:
        examples: all of them.
        outputs: that the loss is over; None: the model's own.
        shift: up to so many pixels each way an image is moved.
        stamp: what is written over images once they are moved; None: nothing.
        label_smoothing: share of each target that is spread over all outputs.
    """

    examples: TrainingSet
    outputs: Outputs | None = None
    shift: int = 0
    stamp: Stamp | None = None
    label_smoothing: float = 0.0

    @property
    def size(self) -> int:
        """How many images there are."""
        return len(self.examples.targets)

    def batch(self, rows: Int64[Tensor, " b"], generator: torch.Generator) -> Batch:
        """The images of these rows, moved and stamped."""
        images = shifted(self.examples.images[rows], self.shift, generator)
        images = images if self.stamp is None else self.stamp(images, rows)
        return {"images": images, "targets": self.examples.targets[rows], "task": self.examples.task[rows]}

    def loss(self, model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        """Mean cross-entropy."""
        scores = model(batch["images"]).float()
        scores = scores if self.outputs is None else self.outputs(scores, batch["task"])
        return functional.cross_entropy(scores, batch["targets"], label_smoothing=self.label_smoothing)

    def units(self, batch: Batch) -> int:
        """Every image counts once."""
        return len(batch["targets"])


def lesson_of(
    examples: TrainingSet,
    config: ImageTrainingConfig,
    *,
    outputs: Outputs | None = None,
    stamp: Stamp | None = None,
) -> ImageLesson:
    """The lesson with the augmentation and the smoothing that the settings ask for."""
    return ImageLesson(examples, outputs, config.shift, stamp, config.label_smoothing)


def shifted(
    images: Float[Tensor, "b *k h w"], most: int, generator: torch.Generator
) -> Float[Tensor, "b *k h w"]:
    """Each image moved by up to `most` pixels each way, with paper moving in at the border."""
    if most == 0:
        return images
    n, *channels, h, w = images.shape
    padded = functional.pad(images, (most, most, most, most), value=-1.0)
    down, right = torch.randint(2 * most + 1, (2, n), generator=generator)
    rows = (down[:, None] + torch.arange(h))[:, :, None]  # [b, h, 1]
    columns = (right[:, None] + torch.arange(w))[:, None, :]  # [b, 1, w]
    moved = padded[torch.arange(n)[:, None, None], ..., rows, columns]  # [b, h, w, *k]
    return moved.movedim(-1, 1) if channels else moved
