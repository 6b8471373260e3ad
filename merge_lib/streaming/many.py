"""Several merges from one reading: into files that carry their lineage, as studies keep them, or in memory."""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from merge_lib.checkpoints import open_checkpoint
from merge_lib.checkpoints.dtypes import DTYPES
from merge_lib.engine import MergeReport, check_paths, check_recorded, merge_in_torch
from merge_lib.files.folders import Source
from merge_lib.files.layout import encode_header
from merge_lib.spec import MergeSpec
from merge_lib.streaming import manifest as texts
from merge_lib.streaming.journal import Notes
from merge_lib.streaming.layout import Shard, lay_out
from merge_lib.streaming.memory_bound import bound_memory, usable_threads
from merge_lib.streaming.output import Output, explained
from merge_lib.streaming.planning import MergePlan, gather, make_plan
from merge_lib.streaming.provenance import check_unchanged, complete_digests
from merge_lib.streaming.runs import Run, make_tensors
from merge_lib.streaming.target import Digests, lineage_header


@dataclass(frozen=True)
class _Draft:
    """A file that is being written."""

    run: Run
    out: Path
    shard: Shard
    output: Output
    extra: Mapping[str, Any]


@dataclass(frozen=True)
class MergedInMemory:
    """A merge that lies in memory.

    Attributes:
        digest: as a file with these tensors would have it.
        tensors: by name, in memory of their own.
    """

    digest: str
    tensors: dict[str, Tensor]


def merge_many(
    specs: Sequence[MergeSpec],
    outs: Sequence[Path],
    *,
    lineages: Sequence[Mapping[str, Any]] | None = None,
    threads: int | None = None,
) -> list[MergeReport]:
    """Make several merges from one reading of the base and the experts, the same bytes as `merge_checkpoints`.

    Merges with kernels are made there, all others in torch.

    Args:
        specs: merges with the same base; their experts may be any of the files, in any order.
        outs: a path for each; existing files are replaced once all merges are whole.
        lineages: more JSON values for each file's lineage.
        threads: of the kernels; None uses the cores that this process may use. They do not change a byte.

    Returns:
        A report for each; none of the files appears unless all of them are whole.

    Raises:
        SpecError: the bases differ, or a path is used twice.
        CheckpointError, MethodInputError: as `merge_checkpoints`; of all merges that cannot be made.
    """
    started = perf_counter()
    extras = [{} for _ in specs] if lineages is None else list(lineages)
    check_paths(specs, outs)
    plans = gather([partial(make_plan, spec) for spec in specs])
    fast = [index for index, plan in enumerate(plans) if plan.is_compiled]
    slow = [index for index, plan in enumerate(plans) if not plan.is_compiled]
    reports: dict[int, MergeReport] = {}
    with ExitStack() as stack:
        drafts = [stack.enter_context(_drafted(plans[i], Path(outs[i]), extras[i])) for i in fast]
        digests = _make([draft.run for draft in drafts], threads)
        for draft, told in zip(drafts, digests, strict=True):
            metadata = lineage_header(draft.run.plan, told, draft.extra)
            draft.output.complete([encode_header(draft.shard.tensors, metadata)])
        elapsed = _shares([draft.run for draft in drafts], perf_counter() - started, usable_threads(threads))
        if slow:
            made = merge_in_torch(
                [specs[i] for i in slow], [outs[i] for i in slow], [extras[i] for i in slow]
            )
            reports |= dict(zip(slow, made, strict=True))
        for index, draft, told, seconds in zip(fast, drafts, digests, elapsed, strict=True):
            draft.output.name([draft.out])
            size, excluded = draft.shard.size_bytes, specs[index].exclude
            reports[index] = MergeReport(draft.out, told.output, size, seconds, excluded)
    return [reports[index] for index in range(len(specs))]


def merge_many_in_memory(
    specs: Sequence[MergeSpec],
    *,
    threads: int | None = None,
    progress: Callable[[int], None] = lambda _read: None,
) -> list[MergedInMemory]:
    """Make several merges from one reading of their inputs, without writing them.

    All results are in memory at once: for less of it, ask for fewer merges.

    Args:
        specs: what to merge and how; they may differ in everything.
        threads: of the kernels; None uses the cores that this process may use.
        progress: told the bytes that were read since the last call.

    Returns:
        State dicts with their digests, in the order of the specs; the same bytes as `merge_checkpoints` writes.

    Raises:
        CheckpointError, MethodInputError: as `merge_checkpoints`; of all merges that cannot be made.
    """
    plans = gather([partial(make_plan, spec) for spec in specs])
    held = [_Held.of(plan) for plan in plans]
    runs = [Run(plan, sink, Notes()) for plan, sink in zip(plans, held, strict=True)]
    _make_or_refuse(runs, threads, progress)
    check_unchanged([source for plan in plans for source in plan.sources])
    return [MergedInMemory(_output_digest(run), sink.tensors()) for run, sink in zip(runs, held, strict=True)]


@dataclass(frozen=True)
class _Held:
    """A result's bytes in memory."""

    plan: MergePlan
    buffers: dict[str, bytearray] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: MergePlan) -> "_Held":
        return cls(plan, {work.name: bytearray(work.size_bytes) for work in plan.works})

    def write(self, name: str, start: int, data: memoryview) -> None:
        """Put bytes at a place of a tensor."""
        memoryview(self.buffers[name])[start : start + len(data)] = data

    def tensors(self) -> dict[str, Tensor]:
        """By sorted name, on the same memory."""
        return {
            work.name: torch.frombuffer(self.buffers[work.name], dtype=DTYPES[work.dtype]).reshape(work.shape)
            if work.count
            else torch.empty(work.shape, dtype=DTYPES[work.dtype])
            for work in sorted(self.plan.works, key=lambda work: work.name)
        }


@contextmanager
def _drafted(plan: MergePlan, out: Path, extra: Mapping[str, Any]) -> Iterator[_Draft]:
    """A file beside its place, removed unless it is named."""
    file = f".{out.name}.{uuid.uuid4().hex[:12]}"
    shard = lay_out(file, plan.tensors, lineage_header(plan, more=extra))
    with explained(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with Output(out.parent, [shard], continues=False) as output:
            yield _Draft(Run(plan, output, Notes()), out, shard, output, extra)
    finally:
        out.with_name(file + ".partial").unlink(missing_ok=True)


def _make(runs: Sequence[Run], threads: int | None) -> list[Digests]:
    """All tensors, and the digests of inputs and result of each merge."""
    _make_or_refuse(runs, threads, lambda _read: None)
    fresh = {
        header.key: digest
        for run in runs
        for work in run.plan.works
        for header, digest in zip(work.inputs, run.journal.finished[work.name]["inputs"], strict=True)
        if header is not None and digest is not None
    }
    sources = {source.path: source for run in runs for source in run.plan.sources}
    digests = {path: _checked_digest(source, fresh) for path, source in sources.items()}
    check_unchanged(tuple(sources.values()))
    return [
        Digests(
            run.plan.base and digests[run.plan.base.path],
            [digests[source.path] for source in run.plan.experts],
            _output_digest(run),
        )
        for run in runs
    ]


def _make_or_refuse(runs: Sequence[Run], threads: int | None, progress: Callable[[int], None]) -> None:
    if not runs:
        return
    bound = bound_memory([run.plan for run in runs], usable_threads(threads), None)
    refusals = list(make_tensors(runs, bound, progress).values())
    if len(refusals) == 1:
        raise refusals[0]
    if refusals:
        raise type(refusals[0])("\n".join(dict.fromkeys(map(str, refusals)))) from refusals[0]


def _checked_digest(source: Source, fresh: Mapping[tuple[Path | None, str], str]) -> str:
    """Of an input, which must be what its own lineage says."""
    digest = texts.input_entry(source, complete_digests(source, {}, fresh))["digest"]
    with open_checkpoint(source.path, base=source.base) as reader:
        check_recorded(reader.label, digest, reader.lineage)
    return digest


def _output_digest(run: Run) -> str:
    made = run.journal.finished
    return texts.combine(
        {
            work.name: texts.describe(work.dtype, work.shape, made[work.name]["output"])
            for work in run.plan.works
        }
    )


def _shares(runs: Sequence[Run], total_s: float, threads: int) -> list[float]:
    """Each merge's own seconds, and its share of those that they have in common."""
    own = [run.elapsed_s / threads for run in runs]
    shared = max(total_s - sum(own), 0.0) / max(len(runs), 1)
    return [seconds + shared for seconds in own]
