"""Opening whatever is a checkpoint: a safetensors file, a Hugging Face model folder, an adapter with its base."""

from contextlib import ExitStack
from pathlib import Path

from torch import Tensor

from merge_lib.checkpoints.adapted import Adapted
from merge_lib.checkpoints.adapters import Adapter
from merge_lib.checkpoints.folder import FolderReader
from merge_lib.checkpoints.fp8 import show_dequantised
from merge_lib.checkpoints.model_config import ModelConfig, read_model_config
from merge_lib.checkpoints.reader import CheckpointReader
from merge_lib.checkpoints.tied import show_tied_once
from merge_lib.checkpoints.view import Checkpoint
from merge_lib.errors import CheckpointError
from merge_lib.files.folders import is_adapter


def open_checkpoint(path: Path, *, base: Path | None = None) -> Checkpoint:
    """Open a checkpoint; use it in a `with` statement.

    Args:
        path: a safetensors file, or a folder with `model.safetensors` or with shards and their index, or a folder
            with a LoRA adapter.
        base: what an adapter is folded into; of no effect on other checkpoints.

    Returns:
        Its tensors, described from the headers and read one at a time.

    Raises:
        CheckpointError: it is missing, may not be read, or is a folder that is not a whole model,
            or an adapter without its base.
        CheckpointMismatchError: the adapter does not fit the base.
        CheckpointCorruptError: a file is not a whole safetensors file.
    """
    path = Path(path)
    if is_adapter(path):
        return _open_adapter(path, base)
    if not path.is_dir():
        return _as_merged(CheckpointReader(path), ModelConfig())
    return _as_merged(FolderReader(path), read_model_config(path))


def _open_adapter(path: Path, base: Path | None) -> Checkpoint:
    if base is None:
        raise CheckpointError(
            f"Checkpoint {path} is a LoRA adapter, which is nothing without its base. Give the `base`, or merge "
            "adapters among themselves with `merge_adapters`."
        )
    with ExitStack() as opened:
        model = opened.enter_context(open_checkpoint(base))
        adapted = Adapted(model, opened.enter_context(Adapter(path)))
        opened.pop_all()
    return adapted


def _as_merged(stored: Checkpoint, config: ModelConfig) -> Checkpoint:
    """The stored tensors as they enter a merge: scaled, and each once."""
    try:
        return show_dequantised(show_tied_once(stored, config), config)
    except BaseException:
        stored.close()
        raise


def read_state_dict(path: Path, *, base: Path | None = None) -> dict[str, Tensor]:
    """All tensors of a checkpoint, in memory, by sorted name; an adapter's folded into its base."""
    with open_checkpoint(path, base=base) as reader:
        return {name: reader.tensor(name).to(reader.dtype(name)) for name in reader.names}
