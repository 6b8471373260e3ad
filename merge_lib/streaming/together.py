"""Several merges made together: all or none, their inputs checked, their digests and what each took."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from merge_lib.checkpoints import open_checkpoint
from merge_lib.engine import check_recorded
from merge_lib.files.folders import Source
from merge_lib.streaming import manifest as texts
from merge_lib.streaming.memory_bound import bound_memory, usable_threads
from merge_lib.streaming.provenance import check_unchanged, complete_digests
from merge_lib.streaming.runs import Run, make_tensors


def make_or_refuse(
    runs: Sequence[Run], threads: int | None, progress: Callable[[int], None] = lambda _read: None
) -> None:
    """All tensors of all merges.

    Raises:
        CheckpointError, MethodInputError: of all merges that cannot be made.
    """
    if not runs:
        return
    bound = bound_memory([run.plan for run in runs], usable_threads(threads), None)
    refusals = list(make_tensors(runs, bound, progress).values())
    if len(refusals) == 1:
        raise refusals[0]
    if refusals:
        raise type(refusals[0])("\n".join(dict.fromkeys(map(str, refusals)))) from refusals[0]


def checked_digests(runs: Sequence[Run]) -> dict[Path, str]:
    """The digest of every input, which must be what its own lineage says and what it was when it was planned with.

    Raises:
        CheckpointCorruptError: it is not.
    """
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
    return digests


def _checked_digest(source: Source, fresh: Mapping[tuple[Path | None, str], str]) -> str:
    digest = texts.input_entry(source, complete_digests(source, {}, fresh))["digest"]
    with open_checkpoint(source.path, base=source.base) as reader:
        check_recorded(reader.label, digest, reader.lineage)
    return digest


def output_digest(run: Run) -> str:
    """The digest of the result."""
    made = run.journal.finished
    return texts.combine(
        {
            work.name: texts.describe(work.dtype, work.shape, made[work.name]["output"])
            for work in run.plan.works
        }
    )


def shares(runs: Sequence[Run], total_s: float, threads: int) -> list[float]:
    """Each merge's own seconds, and its share of those that they have in common."""
    own = [run.elapsed_s / threads + run.alone_s for run in runs]
    shared = max(total_s - sum(own), 0.0) / max(len(runs), 1)
    return [seconds + shared for seconds in own]
