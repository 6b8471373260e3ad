"""State dicts of workloads' models: checked against the model, and written as checkpoints when a training is done."""

import time
from pathlib import Path
from typing import Any

import torch

from merge_lib.checkpoints import write_state_dict
from merge_lib.errors import CheckpointCorruptError, CheckpointMismatchError
from merge_lib.types import StateDict
from merge_lib.workloads.protocol import TrainReport


def check_state(state: StateDict, expected: StateDict, called: str) -> None:
    """Refuse a state dict that is not of this model, or that holds values that are not finite.

    Args:
        state: to be checked.
        expected: of an empty model.
        called: what messages call it, such as "Checkpoint 'a'".

    Raises:
        CheckpointMismatchError: lists every name and shape that differs.
        CheckpointCorruptError: names what is not finite.
    """
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


def write_trained(
    tensors: StateDict,
    out: Path,
    lineage: dict[str, Any],
    *,
    started: float,
    steps: int,
    losses: list[float],
    accuracy: float,
) -> TrainReport:
    """Write what a training made, and say how it went.

    Args:
        tensors: all that the checkpoint holds, by name; on any device.
        out: the safetensors file.
        lineage: JSON values that say where it comes from; the digest is added.
        started: when the training began, by `time.perf_counter`.
        steps: of the optimiser.
        losses: mean of each epoch.
        accuracy: on the validation splits, in [0, 1].
    """
    detached = {name: tensor.detach() for name, tensor in tensors.items()}
    written = write_state_dict(out, detached, lineage=lineage)
    elapsed_s = time.perf_counter() - started
    return TrainReport(written.path, written.digest, written.size_bytes, elapsed_s, steps, losses, accuracy)
