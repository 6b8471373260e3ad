"""What an expert learns: to tell the classes of its task apart by CLIP's logits, through both encoders.

Legend: b images, p texts, l tokens, c classes, s side of an image.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.nn import functional

from merge_lib.workloads.clip.config import FineTuningConfig
from merge_lib.workloads.clip.heads import Head, Targets
from merge_lib.workloads.clip.model import class_logits, class_weights
from merge_lib.workloads.clip.pictures import cropped, shifted
from merge_lib.workloads.clip.subjects import ImageSet

ABSENT = -1e9  # added to the logit of a class that a task does not have


@dataclass(frozen=True)
class ClassLesson:
    """The training images of some tasks; a lesson of the training loop.

    Attributes:
        sets: images by task, in order.
        targets: where each task's classes stand in its head.
        head: of all these tasks together.
        ids: its prompts' tokens.
        config: augmentation and smoothing.
    """

    sets: Mapping[str, ImageSet]
    targets: Mapping[str, Targets]
    head: Head
    ids: Int64[Tensor, "p l"]
    config: FineTuningConfig

    @property
    def size(self) -> int:
        """How many images there are."""
        return sum(images.size("train") for images in self.sets.values())

    @cached_property
    def places(self) -> Int64[Tensor, "n 2"]:
        """Of each image the index of its task, and its row there."""
        found = [
            torch.stack(
                [torch.full((images.size("train"),), position), torch.arange(images.size("train"))], dim=1
            )
            for position, images in enumerate(self.sets.values())
        ]
        return torch.cat(found)

    @cached_property
    def columns(self) -> list[Int64[Tensor, " c"]]:
        """For each task, where its own head's classes stand in the common one."""
        known = {texts: column for column, texts in enumerate(self.head.texts)}
        heads = [self.targets[task].head for task in self.sets]
        return [torch.tensor([known[texts] for texts in head.texts]) for head in heads]

    @cached_property
    def allowed(self) -> Tensor:
        """[t, c], what is added to the logits of each task's images: 0 for its classes, much less for others."""
        mask = torch.full((len(self.sets), len(self.head.texts)), ABSENT)
        for position, columns in enumerate(self.columns):
            mask[position, columns] = 0.0
        return mask

    def batch(self, rows: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Images, moved or cut, the class of each among all, and the task."""
        places = self.places[rows]
        size = next(iter(self.sets.values())).form.size
        shown = torch.empty(len(rows), 3, size, size)
        right = torch.empty(len(rows), dtype=torch.int64)
        for position, (task, images) in enumerate(self.sets.items()):
            own = places[:, 0] == position
            chosen = places[own, 1]
            if len(chosen):
                shown[own] = images.images("train", chosen)
                outputs = self.targets[task].of(images.labels("train")[chosen])
                right[own] = self.columns[position][outputs]
        shown = shifted(shown, self.config.shift, generator)
        shown = cropped(shown, self.config.smallest_crop, generator)
        return {"pixel_values": shown, "labels": right, "task": places[:, 0]}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Cross-entropy over the classes that each image's task allows, smoothed over these alone."""
        labels = batch["labels"]
        found = model(pixel_values=batch["pixel_values"], input_ids=self.ids.to(labels.device))
        weights = class_weights(found.texts.float(), self.head.average.to(labels.device))
        logits = class_logits(found.images.float(), weights, found.scale.float())
        return smoothed(
            logits, labels, self.allowed.to(labels.device)[batch["task"]], self.config.label_smoothing
        )

    def units(self, batch: dict[str, Tensor]) -> int:
        """Images."""
        return len(batch["labels"])


def smoothed(logits: Tensor, labels: Tensor, mask: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy; the smoothed share goes to the classes that the mask allows, equally.

    Args:
        logits: [b, c].
        labels: [b].
        mask: [b, c], 0 where a class is allowed, much less where it is not.
        smoothing: share of the wanted probability, in [0, 1).
    """
    logs = (logits + mask).log_softmax(1)
    exact = functional.nll_loss(logs, labels)
    if smoothing == 0.0:
        return exact
    is_allowed = mask == 0.0
    even = -(logs * is_allowed).sum(1) / is_allowed.sum(1)
    return (1.0 - smoothing) * exact + smoothing * even.mean()
