"""Saves of a training that is under way: one safetensors file, replaced as a whole."""

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from merge_lib.checkpoints import open_checkpoint, verify, write_state_dict
from merge_lib.errors import CheckpointError
from merge_lib.workloads.training.states import State

logger = logging.getLogger(__name__)

FILE = "training.safetensors"
LEFT_BEHIND = ".*.partial"  # by a process that was killed while it wrote


def save(folder: Path, state: Mapping[str, Tensor], fingerprint: str) -> None:
    """Put the state in the place of the one before.

    Args:
        folder: of this training alone; made if it is missing.
        state: by name.
        fingerprint: of what the training is; only the same one finds the state.

    Raises:
        CheckpointError: the disk refused.
    """
    for rest in folder.glob(LEFT_BEHIND):
        rest.unlink(missing_ok=True)
    write_state_dict(folder / FILE, state, lineage={"kind": "training", "fingerprint": fingerprint})


def load(folder: Path, fingerprint: str) -> State | None:
    """The state that was saved last; None if there is none, or if it is another training's, or broken."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        if (fault := _fault(path, fingerprint)) is None:
            with open_checkpoint(path) as file:
                return {name: file.tensor(name).clone() for name in file.names}
    except CheckpointError as refused:
        fault = str(refused)
    logger.warning("The training begins anew, for '%s' cannot be gone on from: %s", path, fault)
    return None


def _fault(path: Path, fingerprint: str) -> str | None:
    """What is wrong with a save."""
    if not verify(path).matches:
        return "its bytes changed after they were written."
    with open_checkpoint(path) as file:
        same = file.lineage.get("fingerprint") == fingerprint
    return None if same else "it is of a training with other settings."
