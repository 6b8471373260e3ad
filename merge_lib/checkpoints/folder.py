"""Reading a model folder as one checkpoint: every shard's header at once, tensors one at a time."""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from merge_lib.checkpoints.dtypes import DTYPES
from merge_lib.checkpoints.reader import CheckpointReader
from merge_lib.errors import CheckpointError, suggest
from merge_lib.files.folders import Source, read_folder
from merge_lib.files.headers import FileState, TensorHeader

OPEN_FILES = 4  # of one folder at a time; tensors of one shard are mostly read together


class FolderReader:
    """One open model folder.

    Attributes:
        path: the folder.
        size_bytes: of all shards, headers included.
        names: names of the tensors, sorted over all shards.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        headers = read_folder(path)
        self._stored = Source.of(path, headers)
        self._shards = {header.path: CheckpointReader(header.path, header) for header in headers}
        self._open = OrderedDict[Path, CheckpointReader]()
        self.names = self._stored.names
        self.size_bytes = sum(shard.size_bytes for shard in self._shards.values())

    @property
    def label(self) -> str:
        """What messages call this checkpoint."""
        return str(self.path)

    @property
    def shards(self) -> tuple[Path, ...]:
        """The files with tensors, by name."""
        return self._stored.files

    @property
    def states(self) -> Mapping[Path, FileState]:
        """What the files were when their headers were read."""
        return self._stored.states

    @property
    def lineage(self) -> dict[str, Any]:
        """Where the checkpoint comes from, as written into its only shard; empty where nothing was."""
        return next(iter(self._shards.values())).lineage if len(self._shards) == 1 else {}

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from the headers."""
        return self.location(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """Element type of a tensor, from the headers."""
        return DTYPES[self.location(name).dtype]

    def tensor(self, name: str) -> Tensor:
        """Read one tensor into memory of its own."""
        path = self.location(name).path
        self._open[path] = self._shards[path]
        self._open.move_to_end(path)
        while len(self._open) > OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        return self._shards[path].tensor(name)

    def location(self, name: str) -> TensorHeader:
        """Where the tensor's bytes lie."""
        if name not in self._stored.tensors:
            raise CheckpointError(
                f"Checkpoint {self.path} has no tensor '{name}': {suggest(name, self.names)}."
            )
        return self._stored.tensors[name]

    def close(self) -> None:
        """Close the files; tensors that were read stay valid."""
        for shard in self._shards.values():
            shard.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
