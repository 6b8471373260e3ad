"""Passes over the pieces of tensors, on one thread or on several together."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, wait
from contextlib import ExitStack
from dataclasses import dataclass
from math import fsum
from pathlib import Path
from threading import Event, Lock
from types import TracebackType
from typing import Any, Self

import numpy as np

from merge_lib.errors import CheckpointError, CheckpointMismatchError
from merge_lib.files.headers import TensorHeader
from merge_lib.kernels.calls import TILE
from merge_lib.streaming.calls import Call, Workspace, address_of
from merge_lib.streaming.output import read_exactly
from merge_lib.streaming.planning import ROW_PIECE, MergePlan, Work

Progress = Callable[[int], None]  # bytes read since the last call
Piece = tuple[Work, int, int]  # a work, the first element, how many

SAMPLE = 4096  # elements of each piece that is looked at for an estimate
_SAMPLED_SHARE = 64
_TOLD_BYTES = 8 << 20  # between two calls of the progress function


class StoppedEarlyError(CheckpointError):
    """Another thread failed; its error is the one that is told."""


class NotFiniteError(CheckpointError):
    """A tensor holds or became NaN or infinity; the torch route says where."""

    def __init__(self, name: str, plan: MergePlan | None = None) -> None:
        super().__init__(f"Tensor '{name}' is not finite.")
        self.name = name
        self.plan = plan


class Inputs:
    """All input files, open."""

    def __init__(self, files: Iterable[Path], progress: Progress) -> None:
        self.stop = Event()
        self._progress, self._read = progress, 0
        self._stack = ExitStack()
        self._files: dict[Path, int] = {}
        try:
            for path in files:
                if path not in self._files:
                    self._files[path] = os.open(path, os.O_RDONLY)
                    self._stack.callback(os.close, self._files[path])
        except OSError as exc:
            self._stack.close()
            raise CheckpointError(f"{path} cannot be opened: {exc.strerror}. Check its permissions.") from exc

    def read(self, header: TensorHeader, start: int, view: memoryview) -> None:
        """Fill a buffer with bytes of a tensor, from its byte `start`."""
        if self.stop.is_set():
            raise StoppedEarlyError("Another piece of the merge failed.")
        read_exactly(
            self._files[header.path],  # type: ignore[index]
            view,
            header.offset + start,
            lambda: f"Tensor '{header.name}' of {header.path}",
        )
        self._read += len(view)  # threads may lose a little to one another; it is only shown
        if self._read >= _TOLD_BYTES:
            told, self._read = self._read, 0
            self._progress(told)

    def read_piece(self, piece: Piece, space: Workspace, places: Iterable[int]) -> list[memoryview | None]:
        """Fill a thread's rows with a piece of some inputs; each input's bytes, None for the others."""
        work, first, count = piece
        found: list[memoryview | None] = [None] * len(work.inputs)
        for place in places:
            header = work.inputs[place] if place >= 0 else None
            if header is not None:
                itemsize = 4 if header.dtype == "F32" else 2
                found[place] = space.views[place][: count * itemsize]
                self.read(header, first * itemsize, found[place])  # type: ignore[arg-type]
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress(self._read)
        self._stack.close()


def differs(work: Work, place: int) -> CheckpointMismatchError:
    """Says that a tensor that is not floating is not the same in two experts."""
    first, other = work.inputs[1], work.inputs[1 + place]
    return CheckpointMismatchError(
        f"Tensor '{work.name}' ({work.dtype}) differs between experts '{first.path}' and '{other.path}'. "  # type: ignore[union-attr]
        "Only floating tensors are merged; others must be equal in all experts. List the tensor in `exclude` to "
        "leave it as in the base."
    )


def pieces(work: Work, size: int) -> Iterator[Piece]:
    """A tensor in pieces of so many elements."""
    for start in range(0, work.count, size):
        yield work, start, min(size, work.count - start)


def piece_size(call: Call, chunk: int) -> int:
    """Elements of a piece: whole rows where the masks are made of rows, and what they were where masks were kept."""
    if call.store is not None:
        return call.store.piece
    return chunk if call.masks is None else max(1, ROW_PIECE // call.masks.length) * call.masks.length


def _samples(works: Iterable[Work], chunk: int) -> Iterator[Piece]:
    """A little of every stretch, as if the tensors were one; small ones are left out as often as they should be."""
    size = min(SAMPLE, chunk)
    left = 0  # elements until the next sample
    for work in works:
        while left < work.count:
            yield work, left, min(size, work.count - left)
            left += size * _SAMPLED_SHARE
        left -= work.count


def run_all(tasks: Sequence[Callable[[], Any]], pool: Executor, stop: Event) -> list[Any]:
    """What the tasks give, done side by side; the first failure stops the others and is raised."""
    futures: list[Future] = [pool.submit(task) for task in tasks]
    try:
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        failed = [future for future in futures if future in done and future.exception() is not None]
        return [future.result() for future in (*failed, *futures)][len(failed) :]
    except BaseException:
        stop.set()
        wait(futures)
        raise


class Taken:
    """An iterator that several threads take from."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = enumerate(items)
        self._lock = Lock()

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        while True:
            with self._lock:
                item = next(self._items, None)
            if item is None:
                return
            yield item


@dataclass(frozen=True)
class Scan:
    """Passes over some tensors that fold them into statistics.

    Attributes:
        mask_bytes: how much may be kept of masks between two passes.
    """

    works: Sequence[Work]
    inputs: Inputs
    spaces: Sequence[Workspace]
    pool: Executor | None
    mask_bytes: int = 0

    @property
    def threads(self) -> int:
        """How many calls a pass takes, one for each thread."""
        return len(self.spaces)

    @property
    def count(self) -> int:
        """Elements of one input."""
        return sum(work.count for work in self.works)

    def run(self, calls: Sequence[Call], *, samples: bool = False) -> None:
        """Give every piece, or a sample of them, to one of the calls, which fold into their own words."""
        chunk = self.spaces[0].chunk
        whole = (piece for work in self.works for piece in pieces(work, chunk))
        taken = Taken(_samples(self.works, chunk) if samples else whole)

        def drain(space: Workspace, call: Call) -> None:
            for _, piece in taken:
                self._fold(piece, space, call, 0)

        self._spread([(lambda s=s, c=c: drain(s, c)) for s, c in zip(self.spaces, calls, strict=True)])

    def sums(self, call: Call, columns: int) -> list[float]:
        """Each column's sum, exactly rounded from the sums of tiles; of one tensor."""
        (work,) = self.works
        size = piece_size(call, self.spaces[0].chunk)
        taken = Taken(pieces(work, size))
        partial = np.zeros((-(-work.count // size), -(-size // TILE), columns))

        def drain(space: Workspace) -> None:
            space.hold(size)
            for index, piece in taken:
                self._fold(piece, space, call, address_of(partial[index]))

        self._spread([(lambda s=s: drain(s)) for s in self.spaces])
        return [fsum(column) for column in partial.reshape(-1, columns).T]

    def in_order(self, call: Call, is_done: Callable[[], bool]) -> None:
        """Give piece after piece to the call, until it has what it looks for."""
        for work in self.works:
            for piece in pieces(work, self.spaces[0].chunk):
                if is_done():
                    return
                self._fold(piece, self.spaces[0], call, 0)

    def _fold(self, piece: Piece, space: Workspace, call: Call, out: int) -> None:
        work, first, count = piece
        self.inputs.read_piece(piece, space, call.places)
        if space.call(call, work, first, count, out):
            raise NotFiniteError(work.name)

    def _spread(self, tasks: Sequence[Callable[[], None]]) -> None:
        if self.pool is None:
            for task in tasks:
                task()
        else:
            run_all(tasks, self.pool, self.inputs.stop)
