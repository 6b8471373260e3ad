"""Reading a checkpoint: the header at once, tensors one at a time.

Bytes are read, not mapped: a file that shrinks while it is open gives an error instead of a signal, and the
memory in use is what the tensors in hand take.
"""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import torch
from torch import Tensor

from merge_lib.checkpoints.layout import LINEAGE_KEY, MAX_HEADER_BYTES, parse_header
from merge_lib.errors import CheckpointCorruptError, CheckpointError, suggest

_RESTORE = "Write the file again, or restore it from where it came."


class CheckpointReader:
    """One open checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _open(path)
        try:
            self.size_bytes = path.stat().st_size
            text = self._header()
            self._data_start = 8 + len(text)
            self._entries, self._metadata = self._parse(text)
        except BaseException:
            self._file.close()
            raise

    @property
    def label(self) -> str:
        """What messages call this checkpoint."""
        return str(self.path)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors, sorted."""
        return tuple(sorted(self._entries))

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
        self._file.seek(self._data_start + entry.start)
        got = self._file.readinto(buffer)  # type: ignore[attr-defined]
        if got != len(buffer):
            raise self._corrupt(f"it ended {len(buffer) - got} bytes before the end of tensor '{name}'")
        return torch.frombuffer(buffer, dtype=torch.uint8).view(entry.dtype).reshape(entry.shape)

    def close(self) -> None:
        """Close the file; tensors that were read stay valid."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _entry(self, name: str) -> Any:
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


def open_checkpoint(path: Path) -> CheckpointReader:
    """Open a checkpoint; use it in a `with` statement.

    Raises:
        CheckpointError: the file is missing or may not be read.
        CheckpointCorruptError: the file is not a whole safetensors file.
    """
    return CheckpointReader(Path(path))


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, in memory, by sorted name."""
    with open_checkpoint(path) as reader:
        return {name: reader.tensor(name) for name in reader.names}


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
