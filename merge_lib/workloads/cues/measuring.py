"""What is measured of a model: how often it answers the class that an image's cue, or the image itself, shows."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from merge_lib.workloads.cues.banks import Cue, generator_of
from merge_lib.workloads.vision.model import ViT
from merge_lib.workloads.vision.models import logits_of

AT_ONCE = 128  # images: what a layer computes of them stays in the processor's cache


@dataclass(frozen=True, eq=False)
class View:
    """One way to show the test images.

    Attributes:
        cue: what is stamped; None: nothing.
        is_conflict: the cue shows a wrong class, and answering that class counts, not the right one.
    """

    cue: Cue | None
    is_conflict: bool = False

    def wanted(self, labels: Int64[Tensor, " n"], classes: int, seed: int) -> Int64[Tensor, " n"]:
        """The class that counts as the answer for each image, which is the one that its cue shows."""
        if not self.is_conflict:
            return labels
        steps = torch.randint(1, classes, labels.shape, generator=generator_of(seed, "conflict"))
        return (labels + steps) % classes

    def shown(
        self, images: Float[Tensor, "n *k h w"], wanted: Int64[Tensor, " n"]
    ) -> Float[Tensor, "n *k h w"]:
        """The images as the model sees them."""
        if self.cue is None:
            return images
        images = images.clone()
        self.cue.write(images, wanted)
        return images


def share_answered(
    model: ViT,
    images: Float[Tensor, "n *k h w"],
    wanted: Int64[Tensor, " n"],
    view: View,
    columns: Int64[Tensor, " c"],
) -> float:
    """Share of the images for which the highest of the logits in `columns` is the wanted one."""
    answered = 0
    for rows in torch.arange(len(images)).split(AT_ONCE):
        logits = logits_of(model, view.shown(images[rows], wanted[rows]))
        answered += int((logits[:, columns].argmax(1) == wanted[rows]).sum())
    return answered / len(images)


def views_of(cues: Mapping[str, Cue], common: Cue | None, *, is_all_shared: bool) -> dict[str, View]:
    """Tasks and probes by name.

    Args:
        cues: of the tasks, each one's own.
        common: the cue that all tasks share; None: there is none.
        is_all_shared: no task's images carry its own cue, so its accuracy is that with the shared one.
    """
    own = {task: View(cue) for task, cue in cues.items()}
    conflicts = {task: View(cue, is_conflict=True) for task, cue in cues.items()}
    views = {"clean": View(None)}
    if common is not None:
        views["shared"] = View(common)
    if is_all_shared:
        conflict = View(common, is_conflict=True)
        views |= {f"own-{task}": view for task, view in own.items() if view.cue is not common}
        own, conflicts = dict.fromkeys(cues, views["shared"]), dict.fromkeys(cues, conflict)
    return own | views | {f"conflict-{task}": view for task, view in conflicts.items()}
