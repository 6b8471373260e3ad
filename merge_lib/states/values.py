"""States of continual methods as tensors and plain values.

A state is a frozen dataclass whose fields are tensors, numbers, strings, None, and tuples of those.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from merge_lib.errors import CheckpointCorruptError

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
        """Bytes of the tensors."""
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
