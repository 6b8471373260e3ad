"""Vision transformers from state dicts, their logits, and checkpoints of them."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.checkpoints import write_state_dict
from merge_lib.errors import CheckpointCorruptError, CheckpointMismatchError
from merge_lib.workloads.protocol import TrainReport
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
    _check_state(state, model.state_dict(), called)
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    return model.requires_grad_(True)


def own_model(config: ViTConfig, state: Mapping[str, Tensor], *, classes: int) -> ViT:
    """A model in evaluation mode with copies of these values in float32."""
    model = empty_model(config, classes=classes)
    model.load_state_dict({name: tensor.float().clone() for name, tensor in state.items()}, assign=True)
    return model.eval()


def logits_of(model: ViT, images: Float[Tensor, "n *k h w"]) -> Float[Tensor, "n c"]:
    """The model's logits, without gradients."""
    model.eval()
    with torch.inference_mode():
        return model(images)


def write_model(
    model: ViT,
    out: Path,
    lineage: dict[str, Any],
    *,
    started: float,
    steps: int,
    losses: list[float],
    accuracy: float,
) -> TrainReport:
    """Write the trained model and say how its training went."""
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    written = write_state_dict(out, tensors, lineage=lineage)
    elapsed_s = time.perf_counter() - started
    return TrainReport(written.path, written.digest, written.size_bytes, elapsed_s, steps, losses, accuracy)


def _check_state(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], called: str) -> None:
    """Refuse a state dict that is not of this model, or that holds values that are not finite."""
    faults = [f"'{name}' is missing" for name in sorted(expected.keys() - state.keys())]
    faults += [f"'{name}' is unknown" for name in sorted(state.keys() - expected.keys())]
    faults += [
        f"'{name}' has shape {tuple(state[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in sorted(state.keys() & expected.keys())
        if state[name].shape != expected[name].shape
    ]
    if faults:
        msg = (
            f"{called} does not fit the study's model: {'; '.join(faults)}. "
            "Use the `model` settings it was trained with, or train it anew."
        )
        raise CheckpointMismatchError(msg)
    spoilt = [name for name in sorted(state) if not torch.isfinite(state[name]).all()]
    if spoilt:
        msg = (
            f"{called} holds NaN or infinite values in {', '.join(spoilt)}; all must be finite. "
            "Train or merge it anew."
        )
        raise CheckpointCorruptError(msg)
