"""Several merges from one reading, into files that carry their lineage, as studies keep them."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from merge_lib.engine import MergeReport, check_paths, merge_in_torch
from merge_lib.files.layout import encode_header
from merge_lib.spec import MergeSpec
from merge_lib.streaming.journal import Notes
from merge_lib.streaming.layout import Shard, lay_out
from merge_lib.streaming.memory_bound import usable_threads
from merge_lib.streaming.output import Output, explained
from merge_lib.streaming.planning import MergePlan, gather, make_plan
from merge_lib.streaming.runs import Run
from merge_lib.streaming.target import Digests, lineage_header
from merge_lib.streaming.together import checked_digests, make_or_refuse, output_digest, shares


@dataclass(frozen=True)
class _Draft:
    """A file that is being written."""

    run: Run
    out: Path
    shard: Shard
    output: Output
    extra: Mapping[str, Any]


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
        elapsed = shares([draft.run for draft in drafts], perf_counter() - started, usable_threads(threads))
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
    make_or_refuse(runs, threads)
    digests = checked_digests(runs)
    return [
        Digests(
            run.plan.base and digests[run.plan.base.path],
            [digests[source.path] for source in run.plan.experts],
            output_digest(run),
        )
        for run in runs
    ]
