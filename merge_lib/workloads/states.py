"""State dicts of workloads' models, checked against the model."""

import torch

from merge_lib.errors import CheckpointCorruptError, CheckpointMismatchError
from merge_lib.types import StateDict


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
