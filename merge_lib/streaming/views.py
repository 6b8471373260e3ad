"""Checkpoints of which something must be computed or compared first: what `open_checkpoint` shows of them."""

from pathlib import Path

from merge_lib.checkpoints import open_checkpoint
from merge_lib.checkpoints.dtypes import DTYPE_NAMES
from merge_lib.files.folders import Source
from merge_lib.files.headers import TensorHeader


def source_of_view(path: Path, base: Path | None) -> Source:
    """The tensors as they enter a merge; those that must be computed have no place in a file."""
    with open_checkpoint(path, base=base) as reader:
        tensors = {}
        for name in reader.names:
            place = reader.location(name)
            file, offset = (None, 0) if place is None else (place.path, place.offset)
            dtype = DTYPE_NAMES[reader.dtype(name)]
            tensors[name] = TensorHeader(name, dtype, reader.shape(name), file, offset, path)
        return Source(str(path), path, tuple(reader.shards), tensors, base, reader.states)


def digest_of_view(source: Source, name: str) -> str:
    """The digest of a tensor that must be computed."""
    from merge_lib.checkpoints import tensor_digest

    with open_checkpoint(source.path, base=source.base) as reader:
        return tensor_digest(reader.tensor(name)).rpartition(" ")[2]
