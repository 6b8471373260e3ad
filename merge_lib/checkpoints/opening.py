"""Opening whatever is a checkpoint: one safetensors file, or a Hugging Face model folder."""

from pathlib import Path

from torch import Tensor

from merge_lib.checkpoints.folder import FolderReader
from merge_lib.checkpoints.reader import CheckpointReader

Checkpoint = CheckpointReader | FolderReader


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
    return FolderReader(path) if path.is_dir() else CheckpointReader(path)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, in memory, by sorted name."""
    with open_checkpoint(path) as reader:
        return {name: reader.tensor(name).to(reader.dtype(name)) for name in reader.names}
