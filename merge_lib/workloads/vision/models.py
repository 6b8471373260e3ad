"""Vision transformers from state dicts, and their logits."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.workloads.states import check_state
from merge_lib.workloads.training.devices import device_of
from merge_lib.workloads.vision.config import ViTConfig
from merge_lib.workloads.vision.model import ViT, empty_model


def model_of(config: ViTConfig, state: Mapping[str, Tensor], *, classes: int, called: str) -> ViT:
    """A model in float32 with these values, which it shares where they are float32 already.

    Args:
        config: its sizes.
        state: its tensors, all of them and no others.
        classes: of its head.
        called: what messages call the state, such as "Checkpoint 'x'".

    Raises:
        CheckpointMismatchError: the tensors are not of this model.
        CheckpointCorruptError: they hold NaN or infinite values.
    """
    model = empty_model(config, classes=classes)
    check_state(state, model.state_dict(), called)
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    return model.requires_grad_(True)


def own_model(config: ViTConfig, state: Mapping[str, Tensor], *, classes: int) -> ViT:
    """A model in evaluation mode with copies of these values in float32.

    Raises:
        CheckpointMismatchError: they are not of this model.
        CheckpointCorruptError: they are not finite.
    """
    model = empty_model(config, classes=classes)
    check_state(state, model.state_dict(), "The state dict")
    model.load_state_dict({name: tensor.float().clone() for name, tensor in state.items()}, assign=True)
    return model.eval()


def logits_of(model: ViT, images: Float[Tensor, "n *k h w"]) -> Float[Tensor, "n c"]:
    """The model's logits on the CPU, without gradients."""
    model.eval()
    with torch.inference_mode():
        return model(images.to(device_of(model))).cpu()
