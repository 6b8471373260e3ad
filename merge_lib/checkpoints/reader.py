"""Reading one safetensors file: the header at once, tensors one at a time.

Bytes are read, not mapped: a file that shrinks while it is open gives an error instead of a signal, and the
memory in use is what the tensors in hand take.
"""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import torch
from torch import Tensor

from merge_lib.checkpoints.layout import (
    DTYPE_NAMES,
    LINEAGE_KEY,
    MAX_HEADER_BYTES,
    Entry,
    TensorLocation,
    parse_header,
)
from merge_lib.errors import CheckpointCorruptError, CheckpointError, suggest

_RESTORE = "Write the file again, or restore it from where it came."


class CheckpointReader:
    """One open file.

    Attributes:
        path: the file.
        size_bytes: its size, header included.
        names: names of the tensors, sorted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _open(path)
        try:
            self._state = _state(self._file)
            self.size_bytes = path.stat().st_size
            text = self._header()
            self._data_start = 8 + len(text)
            self._entries, self._metadata = self._parse(text)
            self.names = tuple(sorted(self._entries))
        except BaseException:
            self._file.close()
            raise

    @property
    def label(self) -> str:
        """What messages call this checkpoint."""
        return str(self.path)

    @property
    def shards(self) -> tuple[Path, ...]:
        """The files with tensors: this one."""
        return (self.path,)

    @property
    def lineage(self) -> dict[str, Any]:
        """Where the checkpoint comes from, as written into it; empty where nothing was."""
        if LINEAGE_KEY not in self._metadata:
            return {}
        try:
            lineage = json.loads(self._metadata[LINEAGE_KEY])
        except json.JSONDecodeError as exc:
            raise self._corrupt(f"its lineage is not JSON ({exc})") from exc
        if not isinstance(lineage, dict):
            raise self._corrupt("its lineage is not a JSON object")
        return lineage

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from the header."""
        return self._entry(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """Element type of a tensor, from the header."""
        return self._entry(name).dtype

    def tensor(self, name: str) -> Tensor:
        """Read one tensor into memory of its own."""
        entry = self._entry(name)
        buffer = bytearray(entry.stop - entry.start)
        if not buffer:
            return torch.empty(entry.shape, dtype=entry.dtype)
        self._reopen()
        self._file.seek(self._data_start + entry.start)
        got = self._file.readinto(buffer)  # type: ignore[attr-defined]
        if got != len(buffer):
            raise self._corrupt(f"it ended {len(buffer) - got} bytes before the end of tensor '{name}'")
        return torch.frombuffer(buffer, dtype=torch.uint8).view(entry.dtype).reshape(entry.shape)

    def location(self, name: str) -> TensorLocation | None:
        """Where the tensor's bytes lie, for those who read them piece by piece."""
        entry = self._entry(name)
        return TensorLocation(
            self.path, self._data_start + entry.start, entry.stop - entry.start, DTYPE_NAMES[entry.dtype]
        )

    def close(self) -> None:
        """Close the file; tensors that were read stay valid, and reading one more opens it again."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _reopen(self) -> None:
        """Have the file open, and be sure that it is the one whose header was read."""
        if not self._file.closed:
            return
        self._file = _open(self.path)
        if _state(self._file) != self._state:
            self._file.close()
            raise CheckpointCorruptError(
                f"Checkpoint {self.path} changed since its header was read. A checkpoint must stay as it is "
                "while it is read. Run again once it is whole."
            )

    def _entry(self, name: str) -> Entry:
        if name not in self._entries:
            raise CheckpointError(
                f"Checkpoint {self.path} has no tensor '{name}': {suggest(name, self._entries)}."
            )
        return self._entries[name]

    def _header(self) -> bytes:
        """The header's JSON text."""
        prefix = self._file.read(8)
        if len(prefix) < 8:
            raise self._corrupt(f"it has {len(prefix)} bytes, fewer than the 8 that give the header's length")
        length = int.from_bytes(prefix, "little")
        if length > min(self.size_bytes - 8, MAX_HEADER_BYTES):
            raise self._corrupt(f"its header claims {length} bytes, but the file has {self.size_bytes}")
        return self._file.read(length)

    def _parse(self, text: bytes) -> Any:
        try:
            return parse_header(text, self.size_bytes - 8 - len(text))
        except (ValueError, RecursionError) as exc:  # not UTF-8 and not JSON are both ValueErrors
            raise self._corrupt(str(exc)) from exc

    def _corrupt(self, what: str) -> CheckpointCorruptError:
        return CheckpointCorruptError(
            f"Checkpoint {self.path} is not a whole safetensors file: {what}. It is truncated, damaged or of "
            f"another format. {_RESTORE}"
        )


def _state(file: BinaryIO) -> tuple[int, int, int, int]:
    """What changes when a file does."""
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _open(path: Path) -> BinaryIO:
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
