"""What checkpoints hold, from their headers alone: names, dtypes, shapes and where the bytes lie."""

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from merge_lib.errors import CheckpointCorruptError, CheckpointError

DTYPE_BYTES = {
    **{"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "BOOL": 1, "C64": 8},
    **{"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1},
}
FLOATING = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
_MAX_HEADER_BYTES = 100_000_000  # as in the safetensors library


@dataclass(frozen=True)
class TensorHeader:
    """One tensor as its file's header describes it; offsets count from the start of the file.

    A tensor that must be computed, such as one with scales or adapters, has no path but the checkpoint that
    shows it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path | None
    offset: int
    view: Path | None = None

    @property
    def key(self) -> tuple[Path | None, str]:
        """What tells the tensor from all others, of this checkpoint and of any other."""
        return (self.path or self.view, self.name)

    @property
    def is_computed(self) -> bool:
        """Whether its bytes lie in no file."""
        return self.path is None

    @property
    def count(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes in the file."""
        return self.count * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class Source:
    """A checkpoint: one file, or a folder with shards.

    Attributes:
        label: what messages call it.
        base: what it is folded into, where it is an adapter.
    """

    label: str
    path: Path
    files: tuple[Path, ...]
    tensors: Mapping[str, TensorHeader]
    base: Path | None = None

    @property
    def name(self) -> str:
        """What a manifest calls it: no part of its path but the last."""
        return self.path.name

    @property
    def is_computed(self) -> bool:
        """Whether a tensor has scales or adapters."""
        return any(header.is_computed for header in self.tensors.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors, sorted."""
        return tuple(sorted(self.tensors))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self.tensors[name].shape

    def dtype(self, name: str) -> str:
        """Element type of a tensor, as safetensors names it."""
        return self.tensors[name].dtype


def read_source(path: Path, base: Path | None = None) -> Source:
    """Read the headers of a file or of a folder's shards; an adapter is shown folded into the base.

    Raises:
        CheckpointError: nothing is there that could be merged.
        CheckpointCorruptError: a header lies about its file, or the index about its shards.
    """
    path = Path(path)
    source = _read_plain(path)
    if source is None or _needs_view(source):
        from merge_lib.streaming.views import source_of_view  # imports torch

        return source_of_view(path, base)
    return source


def _read_plain(path: Path) -> Source | None:
    """The tensors as they are stored; None for a folder that is not plainly a model."""
    if not path.is_dir():
        return Source(str(path), path, (path,), read_header(path))
    has_index, has_single = (path / INDEX_FILE).exists(), (path / SINGLE_FILE).exists()
    if has_index and not has_single:
        return _read_shards(path)
    if has_single and not has_index:
        return Source(str(path), path, (path / SINGLE_FILE,), read_header(path / SINGLE_FILE))
    return None


def _needs_view(source: Source) -> bool:
    """Whether tensors have scales, or may be one tensor under two names."""
    if any(tensor.dtype.startswith("F8_") for tensor in source.tensors.values()):
        return True
    config = source.path / "config.json"
    if not source.path.is_dir() or not config.exists():
        return False
    text = config.read_text(encoding="utf-8", errors="replace")
    if not re.search(r'"tie_word_embeddings"\s*:\s*true', text):
        return False
    sizes = {int(size) for size in re.findall(r'"vocab_size"\s*:\s*(\d+)', text)}
    matrices = (t for t in source.tensors.values() if len(t.shape) == 2 and t.shape[0] in sizes)
    return any(count > 1 for count in Counter((t.dtype, t.shape) for t in matrices).values())


def _read_shards(folder: Path) -> Source:
    index = _read_index(folder / INDEX_FILE)
    files = tuple(folder / name for name in sorted(set(index.values())))
    for file in files:
        if file.parent != folder or not file.resolve().is_relative_to(folder.resolve()):
            raise CheckpointCorruptError(
                f"The index of {folder} names the shard '{file}', which lies outside the folder. Shards must lie "
                "beside their index. Copy the shard there and name it plainly."
            )
    tensors: dict[str, TensorHeader] = {}
    for file in files:
        for name, header in read_header(file).items():
            if index.get(name) != file.name:
                raise CheckpointCorruptError(
                    f"Tensor '{name}' is in shard {file}, but the index says {index.get(name, 'nothing of it')}. "
                    "Index and shards must agree. Fetch the folder again."
                )
            tensors[name] = header
    if missing := sorted(set(index) - set(tensors)):
        raise CheckpointCorruptError(
            f"The index of {folder} names {', '.join(missing[:5])}, which no shard holds ({len(missing)} in all). "
            "Index and shards must agree. Fetch the folder again."
        )
    return Source(str(folder), folder, files, tensors)


def _read_index(path: Path) -> dict[str, str]:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as exc:
        raise CheckpointCorruptError(
            f"The index {path} has no readable `weight_map`: {exc!r}. Fetch the folder again."
        ) from exc
    if not isinstance(index, dict) or not all(isinstance(file, str) for file in index.values()):
        raise CheckpointCorruptError(f"The `weight_map` of {path} is not a table of names. Fetch it again.")
    return index


def read_header(path: Path) -> dict[str, TensorHeader]:
    """The tensors of one file, by name."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
                raise ValueError(f"its header claims {length} bytes, but the file has {size}")  # noqa: TRY301
            text = file.read(length)
        return _parse(path, text, size)
    except OSError as exc:
        raise CheckpointError(
            f"Checkpoint {path} cannot be read: {exc.strerror}. Check the path and its permissions."
        ) from exc
    except (ValueError, RecursionError) as exc:
        raise CheckpointCorruptError(
            f"Checkpoint {path} is not a whole safetensors file: {exc}. It is truncated, damaged or of another "
            "format. Write the file again, or restore it from where it came."
        ) from exc


def _parse(path: Path, text: bytes, size: int) -> dict[str, TensorHeader]:
    start = 8 + len(text)
    pairs = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    if not isinstance(pairs, dict):
        raise ValueError("the header is not a JSON object")  # noqa: TRY004 -- the caller turns it into ours
    tensors = {
        name: _entry(path, name, fields, start) for name, fields in pairs.items() if name != "__metadata__"
    }
    end = start
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.offset, tensor.size_bytes)):
        if tensor.offset != end:
            word = "overlaps the one before it" if tensor.offset < end else "leaves a gap before it"
            raise ValueError(f"tensor '{tensor.name}' {word}")
        end = tensor.offset + tensor.size_bytes
    if end != size:
        raise ValueError(f"its header and tensors need {end} bytes, but the file holds {size}")
    return tensors


def _entry(path: Path, name: str, fields: Any, start: int) -> TensorHeader:
    if not isinstance(fields, dict) or fields.get("dtype") not in DTYPE_BYTES:
        raise ValueError(f"tensor '{name}' has no known dtype")
    shape, offsets = fields.get("shape"), fields.get("data_offsets")
    if not (_are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2):
        raise ValueError(f"tensor '{name}' has the shape {shape!r} and the offsets {offsets!r}")
    tensor = TensorHeader(name, fields["dtype"], tuple(shape), path, start + offsets[0])
    if offsets[1] - offsets[0] != tensor.size_bytes:
        raise ValueError(f"tensor '{name}' has {offsets[1] - offsets[0]} bytes and needs {tensor.size_bytes}")
    return tensor


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice in the header")
    return found
