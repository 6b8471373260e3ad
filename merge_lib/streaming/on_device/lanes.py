"""The way of the pieces to a device and back, two under way in every thread.

While one piece is copied up, merged and copied down, the thread writes the result of the piece before it and reads
the piece after it into the buffers that this frees. On a GPU the buffers are pinned and each of the two has a
stream of its own; on torch's device "cpu" the same code runs without either.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import cycle

import numpy as np
import torch
from torch import Tensor

from merge_lib.checkpoints.dtypes import DTYPES
from merge_lib.errors import SpecError
from merge_lib.files.layout import DTYPE_BYTES
from merge_lib.streaming.calls import Call, Made, Read, Workspace
from merge_lib.streaming.memory_bound import DEVICE_SETS, Bound
from merge_lib.streaming.on_device.merging import Program
from merge_lib.streaming.planning import Work

_WIDEST = 4  # bytes of an element


class Lane(Workspace):
    """The buffers of one thread: for the kernels that make statistics, and two sets for the device."""

    def __init__(self, device: str, bound: Bound, inputs: int, outputs: int) -> None:
        super().__init__(inputs, bound.chunk, outputs)
        self._device = torch.device(device)
        self._sets = [_Set(self._device, inputs, bound.piece, outputs) for _ in range(DEVICE_SETS)]

    def merged(
        self,
        pieces: Iterable[tuple[int, tuple[Work, int, int]]],
        read: Read,
        calls: Sequence[tuple[Call, Work]],
        size: int,
    ) -> Iterator[Made]:
        """As a workspace without a device, but a piece is on its way when the one before it is given."""
        try:
            yield from self._merged(pieces, read, calls, size)
        except torch.OutOfMemoryError as exc:
            raise SpecError(
                f"The memory of the device '{self._device}' is full, with pieces of {size} elements in each thread: "
                f"{exc}. What is finished is kept. Use fewer threads, a smaller `--memory`, or `--device cpu`."
            ) from exc

    def _merged(
        self,
        pieces: Iterable[tuple[int, tuple[Work, int, int]]],
        read: Read,
        calls: Sequence[tuple[Call, Work]],
        size: int,
    ) -> Iterator[Made]:
        programs = [(Program(call, work, self._device), work) for call, work in calls]
        under_way: _Set | None = None
        try:
            for (index, piece), buffers in zip(pieces, cycle(self._sets)):
                buffers.hold(size)
                buffers.start(index, piece, read(piece, buffers.host), programs)
                if under_way is not None:
                    yield under_way.finish()
                under_way = buffers
            if under_way is not None:
                yield under_way.finish()
        finally:
            for buffers in self._sets:
                buffers.wait()  # nothing may write to what is given back


class _Set:
    """Buffers on both sides for one piece, and the work that is under way on it."""

    def __init__(self, device: torch.device, inputs: int, size: int, outputs: int) -> None:
        self._device = device
        self._is_cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._is_cuda else None
        self._done = torch.cuda.Event(blocking=True) if self._is_cuda else None
        self.host = Workspace(inputs, size, outputs, self._pinned)
        self._flags = torch.from_numpy(self._pinned(outputs)).view(torch.bool)
        self._there: list[Tensor] = []

    def _pinned(self, size: int) -> np.ndarray:
        return torch.empty(size, dtype=torch.uint8, pin_memory=self._is_cuda).numpy()

    def hold(self, size: int) -> None:
        """Make room for pieces of so many elements on both sides; nothing may be under way."""
        self.host.hold(size)
        if not self._there or len(self._there[0]) < size * _WIDEST:
            options = {"dtype": torch.uint8, "device": self._device}
            with self._in_stream():
                self._there = [torch.empty(size * _WIDEST, **options) for _ in self.host.rows]

    def start(
        self,
        index: int,
        piece: tuple[Work, int, int],
        views: list[memoryview | None],
        programs: Sequence[tuple[Program, Work]],
    ) -> None:
        """Send a piece that lies in `host` through the programs; does not wait for the device."""
        first_work, first, count = piece
        with self._in_stream():
            places = {place for program, _ in programs for place in program.call.places if place >= 0}
            up = {place: self._send_up(place, first_work, count) for place in sorted(places)}
            bad = [self._merge(i, *one, first, count, up) for i, one in enumerate(programs)]
            self._flags[: len(bad)].copy_(torch.stack(bad), non_blocking=True)
            if self._done is not None:
                self._done.record()
        self._piece = index, first, count, views, [work for _, work in programs]

    def finish(self) -> Made:
        """Wait for the piece that was started."""
        self.wait()
        index, first, count, views, works = self._piece
        outs = [
            None if is_bad else self.host.out_views[i][: count * DTYPE_BYTES[work.dtype]]
            for i, (work, is_bad) in enumerate(zip(works, self._flags.tolist(), strict=False))
        ]
        return Made(index, first, views, outs)

    def wait(self) -> None:
        """Until the device has done all that it was sent."""
        if self._done is not None:
            self._done.synchronize()

    def _send_up(self, place: int, work: Work, count: int) -> Tensor:
        dtype = DTYPES[work.inputs[place].dtype]  # type: ignore[union-attr]
        here = torch.from_numpy(self.host.rows[place])[: count * dtype.itemsize].view(dtype)
        return self._there[place][: count * dtype.itemsize].view(dtype).copy_(here, non_blocking=True)

    def _merge(
        self, place: int, program: Program, work: Work, first: int, count: int, up: dict[int, Tensor]
    ) -> Tensor:
        """One result, on its way down; whether something is not finite, still on the device."""
        masks, is_bad = None, False
        if program.call.masks is not None:
            made, is_bad = self.host.make_masks(program.call, work, first, count)
            masks = torch.from_numpy(made).to(self._device, non_blocking=True)
        merged, bad = program.run([up.get(one) for one in program.call.places], first, masks)
        out = torch.from_numpy(self.host.outs[place])[: count * merged.itemsize].view(merged.dtype)
        out.copy_(merged, non_blocking=True)
        return bad | is_bad

    def _in_stream(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
