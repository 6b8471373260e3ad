"""One merge by the library's torch functions, piece by piece on several threads."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from merge_lib.arithmetic import Merge
from merge_lib.checkpoints.digest import raw_bytes
from merge_lib.checkpoints.dtypes import DTYPES
from merge_lib.folding import Folded, Keep, Step
from merge_lib.layer_scales import LayerScales
from merge_lib.ops.masses import count_moves, mean_share
from merge_lib.streaming.cutting import Part
from merge_lib.streaming.hashing import Hashes, Turns
from merge_lib.streaming.planning import Work
from merge_lib.streaming.scanning import differs
from merge_lib.streaming.torch_reading import Pieces, Widened

if TYPE_CHECKING:
    from merge_lib.streaming.torch_route import Making


@dataclass
class Unfinished:
    """A tensor whose pieces are under way."""

    hashes: Hashes
    reading: Turns = field(default_factory=Turns)
    writing: Turns = field(default_factory=Turns)


@dataclass
class TorchMerge:
    """A plan under way.

    Attributes:
        known: digests of inputs that need not be computed, by `TensorHeader.key`.
        folder: for the states of a continual method that memory does not hold; None: the system's.
    """

    making: "Making"
    merge: Merge
    layer_scales: LayerScales | None
    pieces: Pieces
    known: Any
    folder: Path | None = None

    def __post_init__(self) -> None:
        self.plan, self.cutting, self.crew = self.making.plan, self.making.cutting, self.making.crew
        self._lock = Lock()
        self._unfinished: dict[str, Unfinished] = {}
        self._shallow = 1.0 if self.layer_scales is None else self.layer_scales.stated_shallow

    def run(self) -> None:
        """Do everything that the journal does not have yet; the largest tensors first."""
        self._gather()
        self.crew.each(self._parts(self.making.left), self._make)

    @cached_property
    def _merged(self) -> list[Work]:
        return [work for work in self.plan.works if work.kind == "merge"]

    def _parts(self, works: Iterable[Work]) -> Iterator[Part]:
        return (part for work in works for part in self.cutting.parts(work))

    @property
    def _as_differences(self) -> bool:
        return self.merge.method.receives == "task_vectors"

    # what must be known before the first tensor is merged

    def _gather(self) -> None:
        method = self.merge.method
        dtype = DTYPES[self._merged[0].arithmetic] if self._merged else torch.float32
        self._statistics = self.merge.begin(len(self.plan.experts), dtype)
        if method.implementation.shared is not None:
            self._statistics = self._folded()
        while self._statistics is not None and not self._statistics.complete:
            self._statistics = self.merge.close(self._pass(self._statistics))
        if self.layer_scales is not None and self.layer_scales.is_automatic:
            self._shallow = self._automatic_shallow()

    def _pass(self, start: Any) -> Any:
        """The statistics after all tensors, each thread with its own."""
        join = self.merge.method.implementation.statistics.join  # type: ignore[union-attr]
        threads = self.crew.threads if join is not None else 1
        states = [start] * threads

        def fold(thread: int, _place: int, part: Part) -> None:
            inputs = self.pieces.merged(part, as_differences=self._as_differences)
            with self.merge.named(inputs):
                states[thread] = self.merge.fold(states[thread], inputs)

        self.crew.each(self._parts(self._merged), fold, threads)
        found = states[0]
        for other in states[1:]:
            if other is not start:
                found = other if found is start else join(found, other)  # type: ignore[misc]
        return found

    def _folded(self) -> Folded:
        """All experts of a continual method, folded one after another."""
        folded = Folded.begin(self.merge, self.folder)
        for expert in range(len(self.plan.experts)):
            folded.add((), each=partial(self._each_of, expert))
        return folded

    def _each_of(self, expert: int, _inputs: Iterable[Any], step: Step, keep: Keep) -> None:
        def act(part: Part) -> tuple[Widened, Any]:
            inputs = self.pieces.merged(part, as_differences=self._as_differences, experts=(expert,))
            return inputs, step(inputs)

        self.crew.in_order(self._parts(self._merged), act, lambda _, found: keep(*found))

    def _automatic_shallow(self) -> float:
        found: list[tuple[Tensor, Tensor]] = []

        def measure(part: Part) -> tuple[Tensor, Tensor]:
            inputs = self.pieces.merged(part, as_differences=self._as_differences)
            return count_moves(inputs.task_vectors, self.merge.task_vector(inputs, self._statistics))

        def keep(_part: Part, sums: tuple[Tensor, Tensor]) -> None:
            found[:] = [sums if not found else (found[0][0] + sums[0], found[0][1] + sums[1])]

        self.crew.in_order(self._parts(self._merged), measure, keep)
        return mean_share(*found[0], len(self.plan.experts)) if found else 1.0 / len(self.plan.experts)

    # the tensors

    def _make(self, _thread: int, _place: int, part: Part) -> None:
        """Read, merge and write a part; its bytes are digested in the order of the parts."""
        work = part.work
        with self._lock:
            known = [header and self.known.get(header.key) for header in work.inputs]
            under_way = self._unfinished.setdefault(work.name, Unfinished(Hashes(work, 1, known)))
        stop, found = self.crew.stop, []
        act = {"merge": self._read, "copy": self._copied, "equal": self._equal}[work.kind]
        under_way.reading.take(part.index, lambda: found.append(act(part, under_way.hashes)), stop)
        made = raw_bytes(self._stored(part, found.pop()))
        self.making.sink.write(work.name, part.first * DTYPES[work.dtype].itemsize, made)
        under_way.writing.take(part.index, lambda: under_way.hashes.update_output(0, made), stop)
        if part.index == part.of - 1:
            self._finish(work, under_way.hashes)

    def _finish(self, work: Work, hashes: Hashes) -> None:
        for place, header in enumerate(work.inputs):
            used = {"merge": True, "copy": place == 0, "equal": place > 0}[work.kind]
            if header is None or not used:
                hashes.tell_input(place, None)
            elif header.is_computed:
                hashes.tell_input(place, self.pieces.digest(header))
        hashes.inputs_are_done()
        with self._lock:
            del self._unfinished[work.name]
        self.making.finish(work, hashes.outputs()[0], hashes.inputs())

    def _read(self, part: Part, hashes: Hashes) -> Widened:
        return self.pieces.merged(part, as_differences=self._as_differences, told=hashes.add_input)

    def _copied(self, part: Part, hashes: Hashes) -> Tensor:
        return self.pieces.stored(part, 0, hashes.add_input).to(DTYPES[part.work.dtype])

    def _equal(self, part: Part, hashes: Hashes) -> Tensor:
        first = self.pieces.stored(part, 1, hashes.add_input)
        for place in range(2, len(part.work.inputs)):
            if not torch.equal(first, self.pieces.stored(part, place, hashes.add_input)):
                raise differs(part.work, place - 1)
        return first

    def _stored(self, part: Part, found: Widened | Tensor) -> Tensor:
        """The part in the result's dtype."""
        if isinstance(found, Tensor):
            return found
        scales = self.layer_scales
        factor = scales and scales.factor(found.layer, self._shallow)
        return self.merge.apply(found, self._statistics, DTYPES[part.work.dtype], factor)
