"""States of continual methods as tensors and plain values, and a place for those that memory does not hold.

A state is a frozen dataclass whose fields are tensors, numbers, strings, None, and tuples of those.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any
from weakref import finalize

import torch
from torch import Tensor

from merge_lib.checkpoints.digest import raw_bytes
from merge_lib.errors import CheckpointCorruptError

IN_MEMORY_BYTES = 1 << 28  # of all states of a model; more of them lie in a file
_TENSOR, _TUPLE = "tensor", "tuple"


@dataclass(frozen=True)
class Flat:
    """A state taken apart.

    Attributes:
        outline: the state as plain JSON values; a tensor is {"tensor": its key}, a tuple {"tuple": its items}.
        tensors: by key, such as "masks" or "masks.0".
    """

    outline: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def size_bytes(self) -> int:
        """Of the tensors."""
        return sum(tensor.numel() * tensor.dtype.itemsize for tensor in self.tensors.values())


def flatten(state: Any) -> Flat:
    """Take a state apart."""
    tensors: dict[str, Tensor] = {}
    fields = dataclasses.fields(state)
    return Flat(
        {field.name: _outlined(getattr(state, field.name), field.name, tensors) for field in fields}, tensors
    )


def rebuild(kind: type, outline: Mapping[str, Any], tensor: Callable[[str], Tensor]) -> Any:
    """Put a state together again.

    Args:
        kind: its dataclass.
        outline: as in `Flat`.
        tensor: gives the tensor of a key.

    Returns:
        An instance of `kind`.

    Raises:
        CheckpointCorruptError: the outline is not of such a state.
    """
    expected = [field.name for field in dataclasses.fields(kind)]
    if sorted(outline) != sorted(expected):
        raise CheckpointCorruptError(
            f"A state has the fields {', '.join(sorted(outline)) or 'none'}, but the method keeps "
            f"{', '.join(sorted(expected))}. It was written by another version. Fold the experts in again."
        )
    return kind(**{name: _rebuilt(value, tensor) for name, value in outline.items()})


def tensor_keys(outline: Any) -> Iterator[str]:
    """The keys of the tensors of an outline."""
    if isinstance(outline, dict) and set(outline) == {_TENSOR}:
        yield outline[_TENSOR]
    elif isinstance(outline, (dict, list)):
        for value in outline.values() if isinstance(outline, dict) else outline:
            yield from tensor_keys(value)


def _outlined(value: Any, key: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[key] = value
        return {_TENSOR: key}
    if isinstance(value, tuple):
        return {_TUPLE: [_outlined(item, f"{key}.{place}", tensors) for place, item in enumerate(value)]}
    assert value is None or isinstance(value, bool | int | float | str), f"{key} is a {type(value)}"
    return value


def _rebuilt(value: Any, tensor: Callable[[str], Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if _TENSOR in value:
        return tensor(value[_TENSOR])
    return tuple(_rebuilt(item, tensor) for item in value[_TUPLE])


@dataclass(frozen=True)
class _Place:
    """Where one tensor's state lies in the file of all."""

    outline: dict[str, Any]
    tensors: dict[str, tuple[int, torch.dtype, torch.Size]]  # start, dtype, shape


class SpilledStates(Mapping[str, Any]):
    """The states of a model's tensors: in memory while they are small, else in a nameless file.

    Args:
        folder: for the file; None takes the system's folder for temporary files.
        in_memory_bytes: how large all states may become before they go there.
    """

    def __init__(self, folder: Path | None = None, *, in_memory_bytes: int = IN_MEMORY_BYTES) -> None:
        self._file = SpooledTemporaryFile(max_size=in_memory_bytes, dir=folder)  # noqa: SIM115 -- lives as long
        finalize(self, self._file.close)
        self._places: dict[str, _Place] = {}
        self._kind: type | None = None
        self._end = 0

    def put(self, name: str, state: Any) -> None:
        """Keep the state of one tensor."""
        flat = flatten(state)
        self._kind = type(state)
        placed = {}
        self._file.seek(self._end)
        for key, tensor in flat.tensors.items():
            placed[key] = (self._end, tensor.dtype, tensor.shape)
            self._end += self._file.write(raw_bytes(tensor))
        self._places[name] = _Place(flat.outline, placed)

    def __getitem__(self, name: str) -> Any:
        place = self._places[name]
        return rebuild(self._kind, place.outline, lambda key: self._read(*place.tensors[key]))  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def _read(self, start: int, dtype: torch.dtype, shape: torch.Size) -> Tensor:
        if not shape.numel():
            return torch.empty(shape, dtype=dtype)
        self._file.seek(start)
        read = bytearray(self._file.read(shape.numel() * dtype.itemsize))
        return torch.frombuffer(read, dtype=dtype).reshape(shape)
