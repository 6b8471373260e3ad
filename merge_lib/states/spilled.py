"""A place for the states of a model that memory does not hold."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import SpooledTemporaryFile, gettempdir
from threading import Lock
from typing import Any
from weakref import finalize

import torch
from torch import Tensor

from merge_lib.checkpoints.digest import raw_bytes
from merge_lib.durability import remedy_for
from merge_lib.errors import CheckpointError
from merge_lib.states.values import flatten, rebuild

IN_MEMORY_BYTES = 1 << 26  # of all states of a model; more of them lie in a file


@dataclass(frozen=True)
class Described:
    """One tensor's state without its values.

    Attributes:
        outline: as in `Flat`.
        tensors: of each key dtype and shape, and where it starts in the file of all.
    """

    outline: dict[str, Any]
    tensors: dict[str, tuple[torch.dtype, torch.Size, int]]

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensors."""
        return sum(dtype.itemsize * shape.numel() for dtype, shape, _ in self.tensors.values())


class SpilledStates(Mapping[str, Any]):
    """The states of a model's tensors: in memory while they are small, else in a nameless file.

    Args:
        folder: for the file; None takes the system's folder for temporary files.
        in_memory_bytes: how large all states may become before they go there.
    """

    def __init__(self, folder: Path | None = None, *, in_memory_bytes: int = IN_MEMORY_BYTES) -> None:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._file = SpooledTemporaryFile(max_size=in_memory_bytes, dir=folder)  # noqa: SIM115 -- lives as long
        finalize(self, self._file.close)
        self._places: dict[str, Described] = {}
        self._kind: type | None = None
        self._end = 0
        self._folder = folder
        self._lock = Lock()  # several threads may read

    def put(self, name: str, state: Any) -> None:
        """Keep the state of one tensor."""
        flat = flatten(state)
        self._kind = type(state)
        placed = {}
        try:
            self._file.seek(self._end)
            for key, tensor in flat.tensors.items():
                placed[key] = (tensor.dtype, tensor.shape, self._end)
                self._end += self._file.write(raw_bytes(tensor))
            self._file.flush()  # so that a full disk is told here
        except OSError as refused:
            where = self._folder or gettempdir()
            raise CheckpointError(
                f"States that memory does not hold cannot be kept in {where}: {refused.strerror or refused}. "
                f"Nothing was left behind. {remedy_for(refused)}"
            ) from refused
        self._places[name] = Described(flat.outline, placed)

    def __getitem__(self, name: str) -> Any:
        place = self._places[name]
        return rebuild(self._kind, place.outline, lambda key: self._read(*place.tensors[key]))  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def describe(self, name: str) -> Described:
        """What the state of one tensor consists of."""
        return self._places[name]

    def tensors(self, name: str) -> Iterator[tuple[str, Tensor]]:
        """Key and tensor, one after the other."""
        for key, place in self._places[name].tensors.items():
            yield key, self._read(*place)

    def _read(self, dtype: torch.dtype, shape: torch.Size, start: int) -> Tensor:
        if not shape.numel():
            return torch.empty(shape, dtype=dtype)
        with self._lock:
            self._file.seek(start)
            read = bytearray(self._file.read(shape.numel() * dtype.itemsize))
        return torch.frombuffer(read, dtype=dtype).reshape(shape)
