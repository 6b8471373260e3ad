"""Opening whatever is a checkpoint: one safetensors file, or a Hugging Face model folder."""

from pathlib import Path

from torch import Tensor

from merge_lib.checkpoints.folder import FolderReader
from merge_lib.checkpoints.fp8 import show_dequantised
from merge_lib.checkpoints.model_config import ModelConfig, read_model_config
from merge_lib.checkpoints.reader import CheckpointReader
from merge_lib.checkpoints.tied import show_tied_once
from merge_lib.checkpoints.view import Checkpoint


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint; use it in a `with` statement.

    Args:
        path: a safetensors file, or a folder with `model.safetensors` or with shards and their index.

    Returns:
        Its tensors, described from the headers and read one at a time.

    Raises:
        CheckpointError: it is missing, may not be read, or is a folder that is not a whole model.
        CheckpointCorruptError: a file is not a whole safetensors file.
    """
    path = Path(path)
    if not path.is_dir():
        return _as_merged(CheckpointReader(path), ModelConfig())
    return _as_merged(FolderReader(path), read_model_config(path))


def _as_merged(stored: Checkpoint, config: ModelConfig) -> Checkpoint:
    """The stored tensors as they enter a merge: scaled, and each once."""
    try:
        return show_dequantised(show_tied_once(stored, config), config)
    except BaseException:
        stored.close()
        raise


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, in memory, by sorted name."""
    with open_checkpoint(path) as reader:
        return {name: reader.tensor(name).to(reader.dtype(name)) for name in reader.names}
