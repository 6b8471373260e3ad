"""The work itself: threads take tensor after tensor, read pieces, merge, write and hash them."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any

import xxhash

from merge_lib.files.layout import DTYPE_BYTES
from merge_lib.kernels import calls as layout
from merge_lib.streaming.calls import Call, Made, Workspace
from merge_lib.streaming.hashing import Hashes, Turns
from merge_lib.streaming.memory_bound import Bound
from merge_lib.streaming.operations import Context, prepare
from merge_lib.streaming.planning import MergePlan, Work
from merge_lib.streaming.runs import Run
from merge_lib.streaming.scanning import (
    Inputs,
    NotFiniteError,
    Piece,
    Scan,
    Taken,
    differs,
    piece_size,
    pieces,
    run_all,
)
from merge_lib.streaming.selecting import Wanted, find_largest
from merge_lib.streaming.sharing import Reading, share_readings

_SHARED_FROM = 1 << 22  # elements from which all threads work on one tensor
_ALONE_BELOW = 1 << 16  # elements below which threads would only wait for one another's Python
Known = Mapping[tuple[Path | None, str], str]


@dataclass(frozen=True)
class Group:
    """Tensors of several results that are made from one reading."""

    parts: list[tuple[Run, Work]]
    reading: Reading

    @property
    def first(self) -> Work:
        """For the inputs, which are those of all."""
        return self.reading.work

    def widened(self) -> "Group":
        """The parts with the inputs of all."""
        return Group([(run, self.reading.widened(work)) for run, work in self.parts], self.reading)


@dataclass
class Executor:
    """Runs the kernels of one or several plans over their tensors.

    Attributes:
        known: digests of inputs that need not be computed.
    """

    runs: Sequence[Run]
    bound: Bound
    inputs: Inputs
    known: Known = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = Lock()

    def run(self) -> None:
        """Do everything that the journals do not have yet; the largest tensors first, with all threads."""
        groups = sorted(self._groups(), key=lambda group: -group.first.count)
        shared = [group for group in groups if group.first.count >= _SHARED_FROM]
        with ThreadPoolExecutor(self.bound.threads) as pool:
            spaces = [self._space(groups) for _ in range(self.bound.threads)] if groups else []
            self._find_thresholds(spaces, pool)
            for group in shared:
                self._do(group, spaces, pool)
            taken = Taken(group for group in groups[len(shared) :] if group.first.count >= _ALONE_BELOW)
            small = Taken(group for group in groups[len(shared) :] if group.first.count < _ALONE_BELOW)
            lists = [[small, taken] if place == 0 else [taken] for place in range(len(spaces))]
            tasks = [partial(self._drain, own, space) for own, space in zip(lists, spaces, strict=True)]
            run_all(tasks, pool, self.inputs.stop)

    def _drain(self, lists: Sequence[Taken], space: Workspace) -> None:
        for taken in lists:
            for _, group in taken:
                self._do(group, [space], None)

    def _space(self, groups: Sequence[Group]) -> Workspace:
        inputs = max(len(group.first.inputs) for group in groups)
        outputs = max(len(group.parts) for group in groups)
        if self.runs[0].plan.device is None:
            return Workspace(inputs, self.bound.chunk, outputs)
        from merge_lib.streaming.on_device.lanes import Lane

        return Lane(self.runs[0].plan.device.torch_name, self.bound, inputs, outputs)

    def _groups(self) -> list[Group]:
        readings = share_readings([run.left for run in self.runs])
        return [
            Group([(self.runs[index], work) for index, work in reading.parts], reading)
            for reading in readings
        ]

    def _find_thresholds(self, spaces: Sequence[Workspace], pool: ThreadPoolExecutor) -> None:
        """What TIES must know of the whole model, unless an earlier run has found it."""
        alike: dict[Any, list[Run]] = {}
        for run in self.runs:
            if run.plan.threshold_share is not None and run.left:
                run.thresholds = run.journal.statistics
                if run.thresholds is None:
                    works = tuple(work for work in run.plan.works if work.kind == "merge")
                    alike.setdefault(tuple(work.inputs for work in works), []).append(run)
        for runs in alike.values():
            works = [work for work in runs[0].plan.works if work.kind == "merge"]
            with told_of(runs[0].plan):
                self._find_together(runs, Scan(works, self.inputs, spaces, pool))

    def _find_together(self, runs: Sequence[Run], scan: Scan) -> None:
        """The thresholds of merges of the same tensors at several densities, from the same passes."""
        places = tuple(range(len(scan.works[0].inputs))) if scan.works else ()
        experts = range(len(places) - 1) if scan.count else range(0)
        wanted = [
            Wanted(k, max(1, min(scan.count, int(run.plan.threshold_share * scan.count + 0.5))))  # type: ignore[operator]
            for run in runs
            for k in experts
        ]
        found = find_largest(scan, places, layout.MAGNITUDE, wanted) if wanted else []
        for i, run in enumerate(runs):
            own = found[i * len(experts) : (i + 1) * len(experts)]
            run.thresholds = [one.bits for one in own]
            run.journal.note_statistics(list(run.thresholds))

    def _do(self, group: Group, spaces: Sequence[Workspace], pool: ThreadPoolExecutor | None) -> None:
        """The tensors of one group."""
        if group.first.kind == "merge":
            outputs, inputs = self._merge(group, spaces, pool)
        else:
            output, inputs = self._copy(group, spaces[0])
            outputs = [output] * len(group.parts)
        with self._lock:
            for (run, work), output in zip(group.parts, outputs, strict=True):
                run.journal.finish(work.name, output, group.reading.digests_of(work, inputs))

    def _merge(
        self, group: Group, spaces: Sequence[Workspace], pool: ThreadPoolExecutor | None
    ) -> tuple[list[str], list[str | None]]:
        """Every result of a group and its inputs' digests; calls on pieces of one size share the reading."""
        calls = [self._prepare(group, run, work, spaces, pool) for run, work in group.parts]
        hashes = Hashes(
            group.first,
            len(group.parts),
            [header and self.known.get(header.key) for header in group.first.inputs],
        )
        sizes = [piece_size(call, self.bound.piece) for call in calls]
        for size in dict.fromkeys(sizes):
            made = [place for place, own in enumerate(sizes) if own == size]
            self._pass(Passing(group.widened(), calls, made, hashes, size), spaces, pool)
            hashes.inputs_are_done()
        return hashes.outputs(), hashes.inputs()

    def _prepare(
        self, group: Group, run: Run, work: Work, spaces: Sequence[Workspace], pool: ThreadPoolExecutor | None
    ) -> Call:
        """The call that makes a part, on the inputs of the group."""
        started = perf_counter()
        scan = Scan([work], self.inputs, spaces, pool, self.bound.mask_bytes)
        with told_of(run.plan):
            call = group.reading.moved(prepare(work, Context(run.plan.seed, scan, run.thresholds)), work)
        with self._lock:
            run.elapsed_s += perf_counter() - started
        return call

    def _pass(self, todo: "Passing", spaces: Sequence[Workspace], pool: ThreadPoolExecutor | None) -> None:
        """Read each piece once, do every call on it, and hash in order."""
        taken, turns = Taken(pieces(todo.group.first, todo.size)), Turns()
        places = sorted({place for i in todo.made for place in todo.calls[i].places} | todo.hashes.wanted)

        read = partial(self._read, places)
        parts = [todo.group.parts[i] for i in todo.made]
        calls = [(todo.calls[i], work) for i, (_, work) in zip(todo.made, parts, strict=True)]

        def drain(space: Workspace) -> None:
            with closing(space.merged(taken, read, calls, todo.size)) as pieces_made:
                for made in pieces_made:
                    views = [_write(*part, made, out) for part, out in zip(parts, made.outs, strict=True)]
                    hashed = partial(
                        todo.hashes.update, made.inputs, dict(zip(todo.made, views, strict=True))
                    )
                    if pool is None:
                        hashed()
                    else:
                        turns.take(made.index, hashed, self.inputs.stop)

        if pool is None:
            drain(spaces[0])
        else:
            run_all([partial(drain, space) for space in spaces], pool, self.inputs.stop)

    def _read(self, places: Sequence[int], piece: Piece, space: Workspace) -> list[memoryview | None]:
        return self.inputs.read_piece(piece, space, places)

    def _copy(self, group: Group, space: Workspace) -> tuple[str, list[str | None]]:
        """The base's tensor where it is excluded, else that of the experts, which must all be the same."""
        work = group.first
        first = 0 if work.kind == "copy" else 1
        sources = work.inputs[first : first + 1] if work.kind == "copy" else work.inputs[1:]
        hashes = [xxhash.xxh3_128() for _ in sources]
        capacity = space.chunk * 4
        size = sources[0].size_bytes  # type: ignore[union-attr]
        for start in range(0, size, capacity):
            length = min(capacity, size - start)
            for place, header in enumerate(sources):
                view = space.views[place][:length]
                self.inputs.read(header, start, view)  # type: ignore[arg-type]
                hashes[place].update(view)
                if view != space.views[0][:length]:
                    raise differs(work, place)
            for run, own in group.parts:
                run.output.write(own.name, start, space.views[0][:length])
        inputs: list[str | None] = [None] * len(work.inputs)
        inputs[first : first + len(hashes)] = [hashed.hexdigest() for hashed in hashes]
        return hashes[0].hexdigest(), inputs


def _write(run: Run, work: Work, made: Made, out: memoryview | None) -> memoryview:
    """Put a piece of a result in its place."""
    if out is None:
        raise NotFiniteError(work.name, run.plan)
    run.output.write(work.name, made.first * DTYPE_BYTES[work.dtype], out)
    return out


@dataclass(frozen=True)
class Passing:
    """The calls of a group that take pieces of one size."""

    group: Group
    calls: Sequence[Call]
    made: Sequence[int]
    hashes: Hashes
    size: int


@contextmanager
def told_of(plan: MergePlan) -> Iterator[None]:
    """Say which merge it was that met a value that is not finite."""
    try:
        yield
    except NotFiniteError as exc:
        exc.plan = exc.plan or plan
        raise
