"""Pieces of tensors of all checkpoints, read into torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock

import torch
from torch import Tensor

from merge_lib.arithmetic import Inputs, is_finite
from merge_lib.checkpoints.digest import raw_bytes
from merge_lib.checkpoints.dtypes import DTYPES
from merge_lib.engine import DigestedCheckpoint
from merge_lib.files.headers import TensorHeader
from merge_lib.layers import Layer
from merge_lib.streaming import scanning
from merge_lib.streaming.cutting import Part

Told = Callable[[int, memoryview], None]  # the place of an input, and its bytes


def nobody(_place: int, _bytes: memoryview) -> None:
    """The bytes are not digested."""


@dataclass(frozen=True)
class Widened(Inputs):
    """A piece in the arithmetic's dtype, whose stored bytes are not kept.

    Attributes:
        rows: [n, *shape], of the experts, or of their task vectors.
        wide: [*shape], of the base.
        are_differences: whether the rows are task vectors.
    """

    rows: Tensor = field(default_factory=lambda: torch.empty(0))
    wide: Tensor | None = None
    are_differences: bool = False

    @property
    def count(self) -> int:
        """How many experts there are."""
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the piece."""
        return tuple(self.rows.shape[1:])

    @cached_property
    def stacked(self) -> Tensor:
        """The experts."""
        if self.are_differences:
            raise AssertionError("the experts were not kept")
        return self.rows

    @cached_property
    def wide_base(self) -> Tensor | None:
        """The base."""
        return self.wide

    @cached_property
    def task_vectors(self) -> Tensor:
        """The experts less the base."""
        return self.rows if self.are_differences else self.rows - self.wide


@dataclass(frozen=True)
class Pieces:
    """Where pieces come from.

    Attributes:
        files: the stored tensors.
        views: by `TensorHeader.key`, the checkpoint that computes a tensor which lies in no file.
        layers: of all tensors.
    """

    files: scanning.Inputs
    views: Mapping[object, DigestedCheckpoint]
    layers: Mapping[str, Layer]
    _lock: Lock = field(default_factory=Lock)

    def merged(
        self, part: Part, *, as_differences: bool, experts: tuple[int, ...] = (), told: Told = nobody
    ) -> Widened:
        """What a method is given of a part.

        Args:
            part: of a tensor that is merged.
            as_differences: the base is subtracted from the experts.
            experts: only these, by their places; none for all.
            told: is given every input's bytes, in order.

        Raises:
            NotFiniteError: a value is NaN or infinite.
        """
        dtype = DTYPES[part.work.arithmetic]
        base = None
        if part.work.inputs[0] is not None:
            base = torch.empty(part.shape, dtype=dtype)
            self._fill(base, part, 0, told)
        places = [place + 1 for place in experts] or range(1, len(part.work.inputs))
        rows = torch.empty((len(places), *part.shape), dtype=dtype)
        for row, place in zip(rows, places, strict=True):
            self._fill(row, part, place, told)
        if as_differences:
            rows -= base
        layer = self.layers[part.work.name]
        return Widened(
            layer, base, (), dtype, first=part.first, rows=rows, wide=base, are_differences=as_differences
        )

    def stored(self, part: Part, place: int, told: Told = nobody) -> Tensor:
        """One input of a part as it is stored, [count]; computed tensors in the arithmetic's dtype."""
        header = part.work.inputs[place]
        if header.is_computed:  # type: ignore[union-attr]
            return self._computed(header).reshape(-1)  # type: ignore[arg-type]
        flat = torch.empty(part.count, dtype=DTYPES[header.dtype])  # type: ignore[union-attr]
        self._read(flat, header, part.first, place, told)  # type: ignore[arg-type]
        return flat

    def digest(self, header: TensorHeader) -> str:
        """Of a computed tensor that was read."""
        told = self.views[header.key].known_digest(header.name)
        return told.rpartition(" ")[2]  # type: ignore[union-attr]

    def _fill(self, row: Tensor, part: Part, place: int, told: Told) -> None:
        header = part.work.inputs[place]
        if not header.is_computed and DTYPES[header.dtype] == row.dtype:  # type: ignore[union-attr]
            self._read(row.view(-1), header, part.first, place, told)  # type: ignore[arg-type]
        else:
            row.view(-1).copy_(self.stored(part, place, told))
        if not is_finite(row).all():
            raise scanning.NotFiniteError(part.work.name)

    def _read(self, flat: Tensor, header: TensorHeader, first: int, place: int, told: Told) -> None:
        view = raw_bytes(flat)  # shares the memory
        if len(view):
            self.files.read(header, first * flat.itemsize, view)
        told(place, view)

    def _computed(self, header: TensorHeader) -> Tensor:
        with self._lock:
            return self.views[header.key].tensor(header.name)
