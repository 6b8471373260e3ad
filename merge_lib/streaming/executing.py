"""The work itself: threads take tensor after tensor, read pieces, merge, write and hash them."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Condition, Lock
from typing import Any

import xxhash

from merge_lib.errors import CheckpointMismatchError
from merge_lib.files.layout import DTYPE_BYTES
from merge_lib.kernels import calls as layout
from merge_lib.streaming.calls import Call, Made, Workspace
from merge_lib.streaming.journal import Journal
from merge_lib.streaming.memory_bound import Bound
from merge_lib.streaming.operations import Context, prepare
from merge_lib.streaming.output import Output
from merge_lib.streaming.planning import MergePlan, Work
from merge_lib.streaming.scanning import (
    Inputs,
    NotFiniteError,
    Piece,
    Scan,
    Taken,
    piece_size,
    pieces,
    run_all,
)
from merge_lib.streaming.selecting import Wanted, find_largest

_SHARED_FROM = 1 << 22  # elements from which all threads work on one tensor
Known = Mapping[tuple[Path | None, str], str]


@dataclass
class Run:
    """One merge of those that are made from one reading."""

    plan: MergePlan
    output: Output
    journal: Journal
    thresholds: Sequence[int] | None = None

    @property
    def left(self) -> list[Work]:
        """What the journal does not have yet."""
        return [work for work in self.plan.works if work.name not in self.journal.finished]


@dataclass(frozen=True)
class Group:
    """Tensors of several results that are made of the same inputs."""

    parts: list[tuple[Run, Work]]

    @property
    def first(self) -> Work:
        """For the inputs, which are those of all."""
        return self.parts[0][1]


@dataclass
class Turns:
    """Pieces are hashed in their order, whichever thread has made them."""

    next: int = 0
    changed: Condition = field(default_factory=Condition)

    def take(self, index: int, act: Callable[[], None], inputs: Inputs) -> None:
        """Act once all pieces before have had their turn."""
        with self.changed:
            while self.next != index and not inputs.stop.is_set():
                self.changed.wait(0.1)
        act()
        with self.changed:
            self.next += 1
            self.changed.notify_all()


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
            for run in self.runs:
                self._find_thresholds(run, spaces, pool)
            for group in shared:
                self._do(group, spaces, pool)
            taken = Taken(groups[len(shared) :])
            run_all([partial(self._drain, taken, space) for space in spaces], pool, self.inputs.stop)

    def _drain(self, taken: Taken, space: Workspace) -> None:
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
        found: dict[Any, Group] = {}
        for run in self.runs:
            for work in run.left:
                key = (work.kind, *(header and (header.path, header.offset) for header in work.inputs))
                if not work.count:  # empty tensors may lie at one place
                    key = (*key, work.name)
                found.setdefault(key, Group([])).parts.append((run, work))
        return list(found.values())

    def _find_thresholds(self, run: Run, spaces: Sequence[Workspace], pool: ThreadPoolExecutor) -> None:
        """What TIES must know of the whole model, unless an earlier run has found it."""
        if run.plan.threshold_share is None or not run.left:
            return
        run.thresholds = run.journal.statistics
        works = [work for work in run.plan.works if work.kind == "merge"]
        if run.thresholds is None:
            scan = Scan(works, self.inputs, spaces, pool)
            places = tuple(range(len(works[0].inputs))) if works else ()
            kept = max(1, min(scan.count, int(run.plan.threshold_share * scan.count + 0.5)))
            wanted = [Wanted(k, kept) for k in range(len(places) - 1)] if scan.count else []
            found = find_largest(scan, places, layout.MAGNITUDE, wanted) if wanted else []
            run.thresholds = [one.bits for one in found]
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
                run.journal.finish(work.name, output, inputs)

    def _merge(
        self, group: Group, spaces: Sequence[Workspace], pool: ThreadPoolExecutor | None
    ) -> tuple[list[str], list[str | None]]:
        """Every result of a group and its inputs' digests; calls on pieces of one size share the reading."""
        calls = [
            prepare(work, Context(run.plan.seed, self._scan(work, spaces, pool), run.thresholds))
            for run, work in group.parts
        ]
        hashes = Hashes(group, [header and self.known.get(header.key) for header in group.first.inputs])
        sizes = [piece_size(call, self.bound.piece) for call in calls]
        for size in dict.fromkeys(sizes):
            made = [place for place, own in enumerate(sizes) if own == size]
            self._pass(Passing(group, calls, made, hashes, size), spaces, pool)
            hashes.inputs_are_done()
        return hashes.outputs(), hashes.inputs()

    def _scan(self, work: Work, spaces: Sequence[Workspace], pool: ThreadPoolExecutor | None) -> Scan:
        return Scan([work], self.inputs, spaces, pool, self.bound.mask_bytes)

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
                        turns.take(made.index, hashed, self.inputs)

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
                    raise _differs(work, place)
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


class Hashes:
    """The digests of a group's inputs and results, taken piece by piece."""

    def __init__(self, group: Group, known: Sequence[str | None]) -> None:
        self._found = list(known)
        self._inputs = {
            place: xxhash.xxh3_128()
            for place, header in enumerate(group.first.inputs)
            if header is not None and known[place] is None
        }
        self._outputs = [xxhash.xxh3_128() for _ in group.parts]

    @property
    def wanted(self) -> set[int]:
        """The inputs that must be read to be hashed."""
        return set(self._inputs)

    def update(self, inputs: Sequence[memoryview | None], outputs: Mapping[int, memoryview]) -> None:
        """Add the next piece."""
        for place, hashed in self._inputs.items():
            hashed.update(inputs[place])  # type: ignore[arg-type]
        for place, view in outputs.items():
            self._outputs[place].update(view)

    def inputs_are_done(self) -> None:
        """All their pieces were added."""
        for place, hashed in self._inputs.items():
            self._found[place] = hashed.hexdigest()
        self._inputs = {}

    def outputs(self) -> list[str]:
        """Of each result."""
        return [hashed.hexdigest() for hashed in self._outputs]

    def inputs(self) -> list[str | None]:
        """Of each input; None where there is none."""
        return self._found


@dataclass(frozen=True)
class Passing:
    """The calls of a group that take pieces of one size."""

    group: Group
    calls: Sequence[Call]
    made: Sequence[int]
    hashes: Hashes
    size: int


def _differs(work: Work, place: int) -> CheckpointMismatchError:
    first, other = work.inputs[1], work.inputs[1 + place]
    return CheckpointMismatchError(
        f"Tensor '{work.name}' ({work.dtype}) differs between experts '{first.path}' and '{other.path}'. "  # type: ignore[union-attr]
        "Only floating tensors are merged; others must be equal in all experts. List the tensor in `exclude` to "
        "leave it as in the base."
    )
