"""Which cue each training image carries, which class it shows, and which label is told: drawn once, then frozen."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from merge_lib.workloads.cues.banks import Cue, generator_of

BARE = -1  # the image carries no cue


@dataclass(frozen=True)
class Marks:
    """What is written over the images of a training set.

    Attributes:
        cues: that occur.
        which: for each image the position of its cue, or BARE.
        shown: for each image the class that its cue shows.
    """

    cues: tuple[Cue, ...]
    which: Int64[Tensor, " n"]
    shown: Int64[Tensor, " n"]

    def stamp(
        self, images: Float[Tensor, "n *k h w"], rows: Int64[Tensor, " n"]
    ) -> Float[Tensor, "n *k h w"]:
        """The images of these rows with their cues, in a tensor of its own."""
        images, which, shown = images.clone(), self.which[rows], self.shown[rows]
        for position in which.unique().tolist():
            if position != BARE:
                members = (which == position).nonzero().squeeze(1)
                marked = images[members]
                self.cues[position].write(marked, shown[members])
                images[members] = marked
        return images


def roles(
    n: int, *, own: int, common: int | None, shared: float, probability: float, draws: Sequence[object]
) -> Int64[Tensor, " n"]:
    """For each of n images of a task the position of its cue; exact shares, to a whole image.

    Args:
        n: how many images the task has.
        own: position of the task's own cue.
        common: position of the cue that all tasks share; None: there is none.
        shared: share of the stamped images that carry it.
        probability: share of the images that are stamped.
        draws: words and numbers that decide which images these are.
    """
    order = torch.randperm(n, generator=generator_of(*draws, "roles"))
    stamped = round(n * probability)
    which = torch.full((n,), BARE)
    which[order[:stamped]] = own
    if common is not None:
        which[order[: round(stamped * shared)]] = common
    return which


def told(
    labels: Int64[Tensor, " n"], *, classes: int, noise: float, draws: Sequence[object]
) -> Int64[Tensor, " n"]:
    """The labels, a share of them replaced by another class, every other one equally likely."""
    generator = generator_of(*draws, "labels")
    wrong = torch.randperm(len(labels), generator=generator)[: round(len(labels) * noise)]
    steps = torch.randint(1, classes, (len(wrong),), generator=generator)
    noisy = labels.clone()
    noisy[wrong] = (labels[wrong] + steps) % classes
    return noisy
