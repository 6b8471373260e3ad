"""Reading one safetensors file: the header at once, tensors one at a time.

Bytes are read, not mapped: a file that shrinks while it is open gives an error instead of a signal, and the
memory in use is what the tensors in hand take.
"""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import torch
from torch import Tensor

from merge_lib.checkpoints.dtypes import DTYPES
from merge_lib.errors import CheckpointCorruptError, CheckpointError, suggest
from merge_lib.files.headers import FileHeader, FileState, TensorHeader, header_of, not_whole, open_file
from merge_lib.files.layout import LINEAGE_KEY


class CheckpointReader:
    """One open file.

    Args:
        path: the file.
        header: its header if that has been read; the file is then opened when a tensor is wanted.

    Attributes:
        path: the file.
        size_bytes: its size, header included.
        names: names of the tensors, sorted.
    """

    def __init__(self, path: Path, header: FileHeader | None = None) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        if header is None:
            self._file = open_file(path)
            try:
                header = header_of(self._file, path)
            except BaseException:
                self._file.close()
                raise
        self._header = header
        self.size_bytes = header.state.size_bytes
        self.names = tuple(sorted(header.tensors))

    @property
    def label(self) -> str:
        """What messages call this checkpoint."""
        return str(self.path)

    @property
    def shards(self) -> tuple[Path, ...]:
        """The files with tensors: this one."""
        return (self.path,)

    @property
    def states(self) -> dict[Path, FileState]:
        """What the file was when its header was read."""
        return {self.path: self._header.state}

    @property
    def lineage(self) -> dict[str, Any]:
        """Where the checkpoint comes from, as written into it; empty where nothing was."""
        metadata = self._header.metadata
        if LINEAGE_KEY not in metadata:
            return {}
        try:
            lineage = json.loads(metadata[LINEAGE_KEY])
        except json.JSONDecodeError as exc:
            raise not_whole(self.path, f"its lineage is not JSON ({exc})") from exc
        if not isinstance(lineage, dict):
            raise not_whole(self.path, "its lineage is not a JSON object")
        return lineage

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from the header."""
        return self.location(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """Element type of a tensor, from the header."""
        return DTYPES[self.location(name).dtype]

    def tensor(self, name: str) -> Tensor:
        """Read one tensor into memory of its own."""
        place = self.location(name)
        dtype, buffer = DTYPES[place.dtype], bytearray(place.size_bytes)
        if not buffer:
            return torch.empty(place.shape, dtype=dtype)
        file = self._opened()
        file.seek(place.offset)
        got = file.readinto(buffer)  # type: ignore[attr-defined]
        if got != len(buffer):
            raise not_whole(
                self.path, f"it ended {len(buffer) - got} bytes before the end of tensor '{name}'"
            )
        return torch.frombuffer(buffer, dtype=torch.uint8).view(dtype).reshape(place.shape)

    def location(self, name: str) -> TensorHeader:
        """Where the tensor's bytes lie, for those who read them piece by piece."""
        if name not in self._header.tensors:
            raise CheckpointError(
                f"Checkpoint {self.path} has no tensor '{name}': {suggest(name, self._header.tensors)}."
            )
        return self._header.tensors[name]

    def close(self) -> None:
        """Close the file; tensors that were read stay valid, and reading one more opens it again."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _opened(self) -> BinaryIO:
        """The file, which is the one whose header was read."""
        if self._file is not None and not self._file.closed:
            return self._file
        self._file = open_file(self.path)
        if FileState.of(self._file.fileno()) != self._header.state:
            self._file.close()
            raise CheckpointCorruptError(
                f"Checkpoint {self.path} changed since its header was read. A checkpoint must stay as it is "
                "while it is read. Run again once it is whole."
            )
        return self._file
