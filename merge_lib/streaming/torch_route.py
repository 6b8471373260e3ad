"""The route of methods and element types without a kernel: torch functions, piece by piece."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from threading import Lock
from typing import NoReturn

from merge_lib import registry
from merge_lib.arithmetic import Merge, check_finite, refuse_result
from merge_lib.calibration.store import open_learned
from merge_lib.checkpoints import open_checkpoint
from merge_lib.checkpoints.digest import raw_bytes, tensor_digest
from merge_lib.checkpoints.dtypes import DTYPES
from merge_lib.engine import DigestedCheckpoint, job_of
from merge_lib.files.folders import Source
from merge_lib.layers import describe_layers
from merge_lib.learned import LastObserved
from merge_lib.ops.cores import one_core
from merge_lib.plan import Plan
from merge_lib.spec import MergeSpec
from merge_lib.streaming.allocator import give_back_freed_memory
from merge_lib.streaming.crew import Crew
from merge_lib.streaming.cutting import Cutting
from merge_lib.streaming.journal import Notes
from merge_lib.streaming.output import Sink
from merge_lib.streaming.planning import MergePlan, Work
from merge_lib.streaming.provenance import known_by_key
from merge_lib.streaming.scanning import Inputs, NotFiniteError, Progress
from merge_lib.streaming.torch_memory import TorchBound
from merge_lib.streaming.torch_merge import TorchMerge
from merge_lib.streaming.torch_reading import Pieces


@dataclass(frozen=True)
class Making:
    """A merge on this route, with what it works by.

    Attributes:
        inputs: the files of all checkpoints, open.
    """

    plan: MergePlan
    sink: Sink
    journal: Notes
    inputs: Inputs
    cutting: Cutting
    crew: Crew
    lock: Lock

    @property
    def left(self) -> list[Work]:
        """What the journal does not have yet, the largest first."""
        left = [work for work in self.plan.works if work.name not in self.journal.finished]
        return sorted(left, key=lambda work: -work.count)

    def finish(self, work: Work, output: str, inputs: list[str | None]) -> None:
        """Record a tensor whose bytes are in their place."""
        with self.lock:
            self.journal.finish(work.name, output, inputs)


def run_in_torch(plan: MergePlan, sink: Sink, journal: Notes, bound: TorchBound, progress: Progress) -> None:
    """Do everything that the journal does not have yet."""
    if bound.room_bytes is not None:
        give_back_freed_memory()
    files = (file for source in plan.sources for file in source.files)
    with one_core(), Inputs(files, progress) as inputs, ThreadPoolExecutor(bound.threads) as pool:
        crew = Crew(bound.threads, pool, inputs.stop, bound.room_bytes)
        making = Making(plan, sink, journal, inputs, Cutting.of(plan, bound.elements), crew, Lock())
        if not making.left:
            return
        try:
            plan.reference().make(making)
        except NotFiniteError as exc:
            explain_not_finite(plan, exc.name)


def explain_not_finite(plan: MergePlan, name: str) -> NoReturn:
    """Say which checkpoint has a tensor that is not finite, or that the result left the finite numbers."""
    plan.reference().refuse(plan, next(work for work in plan.works if work.name == name))


@contextmanager
def opened(sources: Sequence[Source]) -> Iterator[tuple[DigestedCheckpoint, ...]]:
    """The checkpoints, open, each with the digests of what was read."""
    with ExitStack() as stack:
        yield tuple(
            DigestedCheckpoint(stack.enter_context(open_checkpoint(source.path, base=source.base)))
            for source in sources
        )


def bare_digest(digest: str) -> str:
    """The hash alone, without dtype and shape."""
    return digest.rpartition(" ")[2]


@dataclass(frozen=True)
class OwnReference:
    """The registered methods, through the same code as `merge_checkpoints`."""

    spec: MergeSpec

    def make(self, making: Making) -> None:
        """Piece by piece."""
        plan, spec = making.plan, self.spec
        if spec.equalise is not None:
            self._make_whole(making)
            return
        layers = describe_layers({work.name: work.shape for work in plan.works})
        if spec.layer_scales is not None:
            spec.layer_scales.check(layers)
        computed = [source for source in plan.sources if source.is_computed]
        with opened(computed) as readers:
            views = {
                header.key: reader
                for source, reader in zip(computed, readers, strict=True)
                for header in source.tensors.values()
                if header.is_computed
            }
            pieces = Pieces(making.inputs, views, layers)
            TorchMerge(
                making,
                self._merge(making.crew.threads),
                spec.layer_scales,
                pieces,
                known_by_key(plan.sources),
            ).run()

    def refuse(self, plan: MergePlan, work: Work) -> NoReturn:
        """Say which input is not finite, or that the result is not."""
        for source in plan.sources:
            with opened([source]) as (reader,):
                check_finite(work.name, reader.tensor(work.name), reader.label)
        refuse_result(work.name, work.method, DTYPES[work.dtype])

    def _merge(self, threads: int) -> Merge:
        spec = self.spec
        learned = open_learned(spec.method, spec.observations, spec.fitted)
        if learned.observations is not None:
            learned = replace(learned, observations=LastObserved(learned.observations, threads))
        return Merge(registry.get(spec.method), spec.params, spec.seed, learned)

    def _make_whole(self, making: Making) -> None:
        """Tensor by tensor, of merges whose task vectors are brought to one length first."""
        plan, spec = making.plan, self.spec
        with opened(plan.sources) as readers:
            base, experts = (None, readers) if plan.base is None else (readers[0], readers[1:])
            whole = Plan([job_of(spec, spec.experts)], base, experts)
            whole.gather_statistics()
            for work in making.left:
                merged = whole.result(0, whole.load(work.name))
                making.sink.write(work.name, 0, raw_bytes(merged))
                digests = [one and one.known_digest(work.name) for one in (base, *experts)]
                told = [digest and bare_digest(digest) for digest in digests]
                making.finish(work, bare_digest(tensor_digest(merged)), told)
