"""Checkpoints that show another one with some of its tensors hidden or computed."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from merge_lib.errors import CheckpointError, suggest
from merge_lib.files.headers import FileState, TensorHeader


class Checkpoint(Protocol):
    """An open checkpoint.

    `dtype` is what a tensor is stored in, and what a result takes by default. A tensor that must be computed
    has no `location`, and comes from `tensor` in the arithmetic's precision, not rounded to that dtype.
    """

    path: Path
    size_bytes: int
    names: tuple[str, ...]

    @property
    def label(self) -> str: ...  # noqa: D102
    @property
    def lineage(self) -> dict[str, Any]: ...  # noqa: D102
    @property
    def shards(self) -> tuple[Path, ...]: ...  # noqa: D102
    @property
    def states(self) -> Mapping[Path, FileState]: ...  # noqa: D102
    def shape(self, name: str) -> tuple[int, ...]: ...  # noqa: D102
    def dtype(self, name: str) -> torch.dtype: ...  # noqa: D102
    def tensor(self, name: str) -> Tensor: ...  # noqa: D102
    def location(self, name: str) -> TensorHeader | None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class View:
    """Another checkpoint with fewer names; subclasses compute tensors.

    Attributes:
        path: where the checkpoint lies.
        size_bytes: of its files.
        names: the names that are shown, sorted.
    """

    def __init__(self, source: Checkpoint, hidden: frozenset[str] = frozenset()) -> None:
        self.source = source
        self.path, self.size_bytes = source.path, source.size_bytes
        self.names = tuple(name for name in source.names if name not in hidden)
        self._hidden = hidden

    @property
    def label(self) -> str:
        """What messages call this checkpoint."""
        return self.source.label

    @property
    def lineage(self) -> dict[str, Any]:
        """Where the files come from; without their digest, which is not that of what is shown."""
        return {key: value for key, value in self.source.lineage.items() if key != "digest"}

    @property
    def shards(self) -> tuple[Path, ...]:
        """The files with tensors."""
        return self.source.shards

    @property
    def states(self) -> Mapping[Path, FileState]:
        """What the files were when their headers were read."""
        return self.source.states

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self.source.shape(self._shown(name))

    def dtype(self, name: str) -> torch.dtype:
        """Element type that a result takes by default."""
        return self.source.dtype(self._shown(name))

    def tensor(self, name: str) -> Tensor:
        """Read or compute one tensor."""
        return self.source.tensor(self._shown(name))

    def location(self, name: str) -> TensorHeader | None:
        """Where the tensor's bytes lie; None where it must be computed."""
        return self.source.location(self._shown(name))

    def close(self) -> None:
        """Close the files."""
        self.source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _shown(self, name: str) -> str:
        if name in self._hidden:
            raise CheckpointError(
                f"Checkpoint {self.label} has no tensor '{name}': {suggest(name, self.names)}."
            )
        return name
