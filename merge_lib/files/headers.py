"""What one safetensors file says it holds, checked against its size before anything else is read."""

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Self

from merge_lib.errors import CheckpointCorruptError, CheckpointError
from merge_lib.files.layout import DTYPE_BYTES, METADATA

_MAX_HEADER_BYTES = 100_000_000  # as in the safetensors library


@dataclass(frozen=True)
class TensorHeader:
    """One tensor as its file's header describes it; offsets count from the start of the file.

    A tensor that must be computed, such as one with scales or adapters, has no path but the checkpoint that
    shows it.
    """

    name: str
    dtype: str  # as safetensors names it: "BF16", "F32", …
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
class FileState:
    """What changes when a file does.

    Attributes:
        ctime_ns: changes with names and permissions, too, so it does not tell states apart here.
        seen_ns: when it was looked at, by the system's clock.
    """

    size_bytes: int
    mtime_ns: int
    inode: int
    ctime_ns: int = field(compare=False)
    seen_ns: int = field(compare=False)

    @classmethod
    def of(cls, file: Path | int) -> Self:
        """The state of a path, links followed, or of an open file."""
        seen_ns = time.time_ns()
        found = os.stat(file)  # noqa: PTH116 -- of a descriptor, too
        return cls(found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns, seen_ns)

    @property
    def identity(self) -> tuple[int, int, int]:
        """Size, time and inode."""
        return self.size_bytes, self.mtime_ns, self.inode

    def is_of(self, path: Path) -> bool:
        """Whether a file is in this state now."""
        try:
            return FileState.of(path) == self
        except OSError:
            return False


@dataclass(frozen=True)
class FileHeader:
    """The header of one file."""

    path: Path
    state: FileState
    tensors: Mapping[str, TensorHeader]
    metadata: Mapping[str, str]


def open_file(path: Path) -> BinaryIO:
    """Open a checkpoint's file.

    Raises:
        CheckpointError: it is missing, a folder, or may not be read.
    """
    try:
        return path.open("rb")
    except FileNotFoundError as exc:
        raise CheckpointError(
            f"Checkpoint {path} does not exist. Check the path, or make the checkpoint first."
        ) from exc
    except IsADirectoryError as exc:
        raise CheckpointError(f"Checkpoint {path} is a folder. Name a single .safetensors file.") from exc
    except OSError as exc:
        raise CheckpointError(
            f"Checkpoint {path} cannot be read: {exc.strerror}. Check its permissions."
        ) from exc


def read_header(path: Path) -> FileHeader:
    """The header of a file that is opened only for that.

    Raises:
        CheckpointError: the file cannot be opened.
        CheckpointCorruptError: the header lies about the file, or is none.
    """
    with open_file(path) as file:
        return header_of(file, path)


def header_of(file: BinaryIO, path: Path) -> FileHeader:
    """The header of an open file.

    Raises:
        CheckpointCorruptError: the header lies about the file, or is none.
    """
    state = FileState.of(file.fileno())
    try:
        text = _text(file, state.size_bytes)
        tensors, metadata = parse_header(path, text, state.size_bytes)
    except (ValueError, RecursionError) as exc:  # not UTF-8 and not JSON are both ValueErrors
        raise not_whole(path, str(exc)) from exc
    return FileHeader(path, state, tensors, metadata)


def not_whole(path: Path, what: str) -> CheckpointCorruptError:
    """The error for a file that is not what the format asks for."""
    return CheckpointCorruptError(
        f"Checkpoint {path} is not a whole safetensors file: {what}. It is truncated, damaged or of another "
        "format. Write the file again, or restore it from where it came."
    )


def _text(file: BinaryIO, size: int) -> bytes:
    """The header's JSON text."""
    prefix = file.read(8)
    if len(prefix) < 8:
        raise ValueError(f"it has {len(prefix)} bytes, fewer than the 8 that give the header's length")
    length = int.from_bytes(prefix, "little")
    if length > min(size - 8, _MAX_HEADER_BYTES):
        raise ValueError(f"its header claims {length} bytes, but the file has {size}")
    return file.read(length)


def parse_header(path: Path, text: bytes, size: int) -> tuple[dict[str, TensorHeader], dict[str, str]]:
    """Tensors by name, and the metadata.

    Args:
        path: of the file.
        text: the header's JSON.
        size: of the whole file, in bytes.

    Returns:
        The tensors, which fill the file without gap, overlap or rest; the metadata.

    Raises:
        ValueError: says what is wrong with the header.
    """
    header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    if not isinstance(header, dict):
        raise ValueError("the header is not a JSON object")  # noqa: TRY004 -- the caller turns it into ours
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata is not a table of strings")
    start = 8 + len(text)
    tensors = {name: _parse_tensor(path, name, fields, start) for name, fields in header.items()}
    _check_places(tensors.values(), start, size)
    return tensors, metadata


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, refusing names that occur twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen = [name for name, _ in pairs]
        twice = sorted({name for name in seen if seen.count(name) > 1})
        raise ValueError(f"the names {', '.join(twice)} occur twice in the header")
    return found


def _parse_tensor(path: Path, name: str, fields: Any, start: int) -> TensorHeader:
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor '{name}' is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise ValueError(f"tensor '{name}' has the unknown dtype {dtype!r}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor '{name}' has the shape {shape!r} and the offsets {offsets!r}")
    tensor = TensorHeader(name, dtype, tuple(shape), path, start + offsets[0])
    if offsets[1] - offsets[0] != tensor.size_bytes:
        raise ValueError(
            f"tensor '{name}' has {offsets[1] - offsets[0]} bytes, but its dtype and shape need "
            f"{tensor.size_bytes}"
        )
    return tensor


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_places(tensors: Iterable[TensorHeader], start: int, size: int) -> None:
    """Tensors must fill the data without gap, overlap or rest."""
    end = start
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.size_bytes)):
        if tensor.offset != end:
            word = "overlaps the one before it" if tensor.offset < end else "leaves a gap before it"
            place = tensor.offset - start
            raise ValueError(f"tensor '{tensor.name}' starts at byte {place} of the data and {word}")
        end += tensor.size_bytes
    if end != size:
        raise ValueError(f"its tensors need {end - start} bytes of data, but the file holds {size - start}")
