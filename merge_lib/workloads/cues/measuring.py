"""What is measured of a model: how often it answers the class that an image's cue, or the image itself, shows."""

from jaxtyping import Float, Int64
from torch import Tensor, arange

from merge_lib.workloads.cues.views import View
from merge_lib.workloads.vision.model import ViT
from merge_lib.workloads.vision.models import logits_of

AT_ONCE = 128  # images: what a layer computes of them stays in the processor's cache


def shown(
    view: View, images: Float[Tensor, "n *k h w"], wanted: Int64[Tensor, " n"]
) -> Float[Tensor, "n *k h w"]:
    """The images as the model sees them."""
    if view.cue is None:
        return images
    images = images.clone()
    view.cue.write(images, wanted)
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
    for rows in arange(len(images)).split(AT_ONCE):
        logits = logits_of(model, shown(view, images[rows], wanted[rows]))
        answered += int((logits[:, columns].argmax(1) == wanted[rows]).sum())
    return answered / len(images)
