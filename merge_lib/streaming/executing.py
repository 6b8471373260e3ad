"""The work itself: threads take tensor after tensor, read pieces, merge, write and hash them."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock
from types import TracebackType
from typing import Self

import numpy as np
import xxhash

from merge_lib.errors import CheckpointError, CheckpointMismatchError
from merge_lib.files.headers import TensorHeader
from merge_lib.streaming import kernels
from merge_lib.streaming.coefficients import Coefficients, Digits, Recipe, coefficients, cosine_of
from merge_lib.streaming.journal import Journal
from merge_lib.streaming.memory_bound import SLERP_BLOCK, Bound
from merge_lib.streaming.output import Output, read_exactly
from merge_lib.streaming.planning import MergePlan, Work

Progress = Callable[[int], None]  # bytes read since the last call


class StoppedEarlyError(CheckpointError):
    """Another thread failed; its error is the one that is told."""


class NotFiniteError(CheckpointError):
    """A tensor holds or became NaN or infinity; the torch route says where."""

    def __init__(self, name: str) -> None:
        super().__init__(f"Tensor '{name}' is not finite.")
        self.name = name


class Inputs:
    """All input files, open."""

    def __init__(self, files: Iterable[Path]) -> None:
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
        """Fill a buffer with bytes of a tensor."""
        label = f"Tensor '{header.name}' of {header.path}"
        read_exactly(self._files[header.path], view, header.offset + start, label)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


class Workspace:
    """The buffers of one thread, used again for every piece."""

    def __init__(self, recipe: Recipe, chunk: int, *, counts: bool) -> None:
        inputs = recipe.experts + 1
        self.rows = np.empty((inputs, chunk * 4), np.uint8)
        self.out = np.empty(chunk * 4, np.uint8)
        self.views = [memoryview(row) for row in self.rows]
        self.out_view = memoryview(self.out)
        self.counts = np.zeros((recipe.experts, 65536), np.int64) if counts else None
        needs_pair = recipe.method == "slerp" and recipe.experts == 2
        self.pair = np.empty((2, SLERP_BLOCK), np.float32) if needs_pair else None


@dataclass
class Executor:
    """Runs a plan's kernels over its tensors."""

    plan: MergePlan
    bound: Bound
    inputs: Inputs
    output: Output
    journal: Journal
    progress: Progress

    def __post_init__(self) -> None:
        plan = self.plan
        self._recipe = Recipe(plan.method, plan.params, plan.seed, len(plan.experts))
        self._stop, self._lock = Event(), Lock()
        self._thresholds: np.ndarray | None = None

    def run(self) -> None:
        """Do everything that the journal does not have yet."""
        if self._recipe.trim == "model":
            self._find_thresholds()
        left = [work for work in self.plan.works if work.name not in self.journal.finished]
        self._spread(left, self._do, counts=self._recipe.trim == "tensor")

    def _find_thresholds(self) -> None:
        """Two passes over the whole model, unless an earlier run has made them."""
        digits = Digits(self._recipe.experts, self._recipe.params["density"])
        if self.journal.statistics is not None:
            digits.prefixes = np.array(self.journal.statistics, np.int64)
        else:
            works = [work for work in self.plan.works if work.kind == "merge"]
            for _ in range(2):
                digits.close(self._count_all(works, digits))
            self.journal.note_statistics(digits.prefixes.tolist())
        self._thresholds = digits.thresholds

    def _count_all(self, works: Sequence[Work], digits: Digits) -> np.ndarray:
        """One pass; the buffers of its threads are given back at its end."""
        first, *others = self._spread(
            works, lambda work, space: self._count(work, space, digits), counts=True
        )
        for space in others:
            first.counts += space.counts
        return first.counts  # type: ignore[return-value]

    def _do(self, work: Work, space: Workspace) -> None:
        """One tensor of the result."""
        if work.kind == "merge":
            output, inputs = self._merge(work, space)
        else:
            output, inputs = self._copy(work, space)
        with self._lock:
            self.journal.finish(work.name, output, inputs)

    def _merge(self, work: Work, space: Workspace) -> tuple[str, list[str | None]]:
        hashes = [None if header is None else xxhash.xxh3_128() for header in work.inputs]
        result = xxhash.xxh3_128()
        numbers = self._coefficients(work, space)
        codes = _codes(work)
        itemsize = 4 if work.dtype == "F32" else 2
        for start, count in self._pieces(work, self.bound.chunk):
            self._read(work, start, count, space.views, hashes)
            bad = kernels.merge_chunk(
                numbers.method, space.rows, codes, space.out, kernels.CODES[work.dtype], count,
                numbers.numbers, numbers.thresholds, numbers.keys, numbers.limit, start,
            )  # fmt: skip
            if bad:
                raise NotFiniteError(work.name)
            piece = space.out_view[: count * itemsize]
            self.output.write(work.name, start * itemsize, piece)
            result.update(piece)
        return result.hexdigest(), [None if hashed is None else hashed.hexdigest() for hashed in hashes]

    def _coefficients(self, work: Work, space: Workspace) -> Coefficients:
        """The numbers of one tensor, from passes over it where the method needs them."""
        thresholds, cosine = self._thresholds, None
        if self._recipe.trim == "tensor":
            digits = Digits(self._recipe.experts, self._recipe.params["density"])
            for _ in range(2):
                space.counts[:] = 0  # type: ignore[index]
                self._count(work, space, digits)
                digits.close(space.counts)  # type: ignore[arg-type]
            thresholds = digits.thresholds
        if space.pair is not None:
            cosine = self._cosine(work, space)
        return coefficients(self._recipe, work.name, thresholds, cosine)

    def _count(self, work: Work, space: Workspace, digits: Digits) -> None:
        shift = np.uint32(16)
        codes = _codes(work)
        for start, count in self._pieces(work, self.bound.chunk):
            self._read(work, start, count, space.views)
            if kernels.count_digits(space.rows, codes, count, shift, digits.prefixes, space.counts):
                raise NotFiniteError(work.name)

    def _cosine(self, work: Work, space: Workspace) -> float:
        """Of the angle between two experts, summed in the order of `merge_lib.ops.sums.inner_product`."""
        products = np.zeros(3)
        codes = _codes(work)
        for block, size in self._pieces(work, SLERP_BLOCK):
            for start in range(block, block + size, self.bound.chunk):
                count = min(self.bound.chunk, block + size - start)
                self._read(work, start, count, space.views)
                for k in range(2):
                    target = space.pair[k, start - block :]  # type: ignore[index]
                    if kernels.widen_chunk(space.rows[k + 1], codes[k + 1], count, target):
                        raise NotFiniteError(work.name)
            products += kernels.inner_products(space.pair[0], space.pair[1], 0, size)  # type: ignore[index]
        return cosine_of(products)

    def _copy(self, work: Work, space: Workspace) -> tuple[str, list[str | None]]:
        """The base's tensor where it is excluded, else that of the experts, which must all be the same."""
        first = 0 if work.kind == "copy" else 1
        sources = work.inputs[first : first + 1] if work.kind == "copy" else work.inputs[1:]
        hashes = [xxhash.xxh3_128() for _ in sources]
        capacity = len(space.out)
        size = sources[0].size_bytes  # type: ignore[union-attr]
        for start in range(0, size, capacity):
            length = min(capacity, size - start)
            for place, header in enumerate(sources):
                view = space.views[place][:length]
                self._read_one(header, start, view)  # type: ignore[arg-type]
                hashes[place].update(view)
                if view != space.views[0][:length]:
                    raise _differs(work, place)
            self.output.write(work.name, start, space.views[0][:length])
        inputs: list[str | None] = [None] * len(work.inputs)
        inputs[first : first + len(hashes)] = [hashed.hexdigest() for hashed in hashes]
        return hashes[0].hexdigest(), inputs

    def _read(
        self, work: Work, start: int, count: int, views: Sequence[memoryview], hashes: Sequence | None = None
    ) -> None:
        for place, header in enumerate(work.inputs):
            if header is not None:
                itemsize = 4 if header.dtype == "F32" else 2
                view = views[place][: count * itemsize]
                self._read_one(header, start * itemsize, view)
                if hashes is not None:
                    hashes[place].update(view)

    def _read_one(self, header: TensorHeader, start: int, view: memoryview) -> None:
        if self._stop.is_set():
            raise StoppedEarlyError("Another piece of the merge failed.")
        self.inputs.read(header, start, view)
        self.progress(len(view))

    def _pieces(self, work: Work, size: int) -> Iterator[tuple[int, int]]:
        total = next(header.count for header in work.inputs if header is not None)
        for start in range(0, total, size):
            yield start, min(size, total - start)

    def _spread(
        self, works: Sequence[Work], act: Callable[[Work, Workspace], None], *, counts: bool
    ) -> list[Workspace]:
        """Do all works on all threads; the first failure stops them."""
        queue: SimpleQueue[Work | None] = SimpleQueue()
        for work in [*works, *[None] * self.bound.threads]:
            queue.put(work)

        def drain() -> Workspace:
            space = Workspace(self._recipe, self.bound.chunk, counts=counts)
            while (work := queue.get()) is not None:
                act(work, space)
            return space

        with ThreadPoolExecutor(self.bound.threads) as pool:
            futures = [pool.submit(drain) for _ in range(self.bound.threads)]
            try:
                return [future.result() for future in _as_they_end(futures)]
            except BaseException:
                self._stop.set()
                raise


def _as_they_end(futures: Sequence) -> Sequence:
    """The futures once one has failed or all are done, the failed one first."""
    from concurrent.futures import FIRST_EXCEPTION, wait

    done, _ = wait(futures, return_when=FIRST_EXCEPTION)
    failed = [future for future in futures if future in done and future.exception() is not None]
    return [*failed, *(future for future in futures if future not in failed)]


def _codes(work: Work) -> np.ndarray:
    """The element types of the inputs for the kernels; −1 where there is no base."""
    return np.array(
        [-1 if header is None else kernels.CODES[header.dtype] for header in work.inputs], np.int64
    )


def _differs(work: Work, place: int) -> CheckpointMismatchError:
    first, other = work.inputs[1], work.inputs[1 + place]
    return CheckpointMismatchError(
        f"Tensor '{work.name}' ({work.dtype}) differs between experts '{first.path}' and '{other.path}'. "  # type: ignore[union-attr]
        "Only floating tensors are merged; others must be equal in all experts. List the tensor in `exclude` to "
        "leave it as in the base."
    )
