"""Merging into a folder that transformers loads, or into one file: resumable, with the manifest last."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import xxhash

from merge_lib.errors import MergeError
from merge_lib.files.hashes import FileHash
from merge_lib.spec import MergeSpec
from merge_lib.streaming.devices import plan_for
from merge_lib.streaming.finishing import describe_merge, finish
from merge_lib.streaming.journal import Journal
from merge_lib.streaming.layout import Shard
from merge_lib.streaming.leftovers import remove_others, take_back
from merge_lib.streaming.memory_bound import bound_memory, resident_bytes, usable_threads
from merge_lib.streaming.output import Output, explained
from merge_lib.streaming.planning import MergePlan, gather, make_plan
from merge_lib.streaming.provenance import FileHashes, check_unchanged
from merge_lib.streaming.runs import Run, make_tensors
from merge_lib.streaming.target import JOURNAL, Target, check_apart, lay_out_result

_HASH_BYTES = 1 << 20


@dataclass(frozen=True)
class MergeOptions:
    """How a merge is run; none of it changes a byte of the tensors, but a GPU may by one rounding step.

    Attributes:
        threads: None uses the cores that this process may use.
        memory_bytes: bound on the resident size; None uses pieces of the best size.
        max_shard_bytes: a folder's files are no larger, unless one tensor is.
        file_hashes: more hashes of whole files for the manifest; they take longer than the merge.
        progress: told the bytes that were read since the last call.
        device: "cpu" for the kernels; "cuda" or "cuda:1" for torch on a GPU; "torch:cpu" to check the latter.
    """

    threads: int | None = None
    memory_bytes: int | None = None
    max_shard_bytes: int = 5_000_000_000
    progress: Callable[[int], None] = lambda _read: None
    file_hashes: tuple[FileHash, ...] = ()
    device: str = "cpu"


@dataclass(frozen=True)
class StreamedMerge:
    """A merge that lies on the disk, whole.

    Attributes:
        continued: tensors that an interrupted run had finished.
        elapsed_s: until it was whole, from the start of what it was made together with.
        arithmetic: "kernels", the device's name, or "torch: " and the reason.
        was_finished: it was there already, and left as it was.
    """

    path: Path
    digest: str
    size_bytes: int
    elapsed_s: float
    tensors: int
    continued: int
    arithmetic: str
    was_finished: bool = False


@dataclass(frozen=True)
class Asked:
    """One of several merges: what makes its plan, and where its result goes, as `merge_to` takes it."""

    make: Callable[[], MergePlan]
    out: Path


@dataclass(frozen=True)
class _Open:
    """A merge whose files are open."""

    run: Run
    target: Target
    shards: tuple[Shard, ...]
    output: Output
    earlier: frozenset[str]


def merge_to(spec: MergeSpec, out: Path, options: MergeOptions | None = None) -> StreamedMerge:
    """Merge checkpoints into a folder, or into one file where `out` ends in .safetensors.

    A run that was interrupted is continued by calling this again with the same arguments.

    Args:
        spec: what to merge and how.
        out: a folder that is empty, new or unfinished, or a file's path.
        options: threads, memory, shard size.

    Returns:
        Where the merge is and what it is.

    Raises:
        SpecError: the output would overwrite something, the memory is too small, or there is no such device.
        CheckpointError: a checkpoint is missing or damaged, does not match the others, or cannot be written.
        MethodInputError: an expert or the result is not finite.
    """
    return merge_planned(lambda: make_plan(spec), out, options)


def merge_planned(
    make: Callable[[], MergePlan], out: Path, options: MergeOptions | None = None
) -> StreamedMerge:
    """Do what a plan says; as `merge_to`, whatever recipe the plan is made from."""
    (done,) = _merge([Asked(make, out)], options or MergeOptions(), leaves_finished=False)
    if isinstance(done, MergeError):
        raise done
    return done


def merge_all(
    asked: Sequence[Asked], options: MergeOptions | None = None, *, leaves_finished: bool = False
) -> list[StreamedMerge]:
    """Make several merges from one reading of their inputs, as far as they have inputs in common.

    All of them are checked before anything is written. Those with kernels share the reading; those on the torch
    route follow, each by itself. What was interrupted is continued by calling this again; the merges that are asked
    for need not be the same then.

    Args:
        asked: the merges.
        options: threads, memory, shard size; for all of them together.
        leaves_finished: merges that are finished are told, not refused.

    Returns:
        Each merge, in the order in which it was asked for.

    Raises:
        MergeError: all that is wrong, in one error of the first one's kind.
        RefusedError: some of the merges cannot be made; the others are finished.
    """
    outcomes = _merge(asked, options or MergeOptions(), leaves_finished=leaves_finished)
    refused = {
        one.out: outcome
        for one, outcome in zip(asked, outcomes, strict=True)
        if isinstance(outcome, MergeError)
    }
    done = [outcome for outcome in outcomes if isinstance(outcome, StreamedMerge)]
    if refused:
        raise RefusedError(done, refused)
    return done


class RefusedError(MergeError):
    """Some of several merges cannot be made.

    Attributes:
        done: those that are finished.
        refused: for each other output the reason.
    """

    def __init__(self, done: Sequence[StreamedMerge], refused: Mapping[Path, MergeError]) -> None:
        told = [f"{out}: {reason}" for out, reason in refused.items()]
        count = (
            f"{len(refused)} of {len(refused) + len(done)} merges cannot be made; the others are finished."
        )
        super().__init__("\n".join([count, *told]))
        self.done = tuple(done)
        self.refused = dict(refused)


def _make_plan(asked: Asked, device: str, *, is_alone: bool) -> MergePlan:
    """A plan; what is wrong with it is told with its output where there are several."""
    try:
        return plan_for(asked.make, device)
    except MergeError as exc:
        if is_alone:
            raise
        raise type(exc)("\n".join(f"{asked.out.name}: {line}" for line in str(exc).splitlines())) from exc


def _merge(
    asked: Sequence[Asked], options: MergeOptions, *, leaves_finished: bool
) -> list[StreamedMerge | MergeError]:
    """Each merge, or why it cannot be made."""
    started = perf_counter()
    plans = gather([partial(_make_plan, one, options.device, is_alone=len(asked) == 1) for one in asked])
    targets = [Target(Path(one.out)) for one in asked]
    for target in targets:
        target.tidy()
    manifests = _check_targets(plans, targets, leaves_finished=leaves_finished)
    outcomes: dict[Path, StreamedMerge | MergeError] = {
        target.out: _left(plan, target, manifest)
        for plan, target, manifest in zip(plans, targets, manifests, strict=True)
        if manifest is not None
    }
    todo = [(plan, target) for plan, target in zip(plans, targets, strict=True) if target.out not in outcomes]
    threads = usable_threads(options.threads)
    if todo:
        if any(plan.is_compiled for plan, _ in todo):
            import merge_lib.streaming.executing
        if not all(plan.is_compiled for plan, _ in todo):
            import merge_lib.streaming.torch_route  # noqa: F401 -- as well
        bound = bound_memory([plan for plan, _ in todo], threads, options.memory_bytes, resident_bytes())
        with ExitStack() as stack:
            opened = [stack.enter_context(_opened(plan, target, options)) for plan, target in todo]
            with ExitStack() as flushing:
                for one in opened:
                    flushing.enter_context(one.output.flushing())
                refused = make_tensors([one.run for one in opened], bound, options.progress)
            for one in opened:
                finish_it = partial(_finish, one, FileHashes(options.file_hashes, threads), started)
                outcomes[one.target.out] = refused.get(one.run) or _outcome(finish_it)
    return [outcomes[target.out] for target in targets]


def _check_targets(
    plans: Sequence[MergePlan], targets: Sequence[Target], *, leaves_finished: bool
) -> list[dict[str, Any] | None]:
    """The manifests of the merges that are finished and may be left as they are."""
    sources = [source for plan in plans for source in plan.sources]
    checks = [
        partial(target.check_all, plan, sources, leaves_finished=leaves_finished)
        for plan, target in zip(plans, targets, strict=True)
    ]
    return gather([partial(check_apart, targets), *checks])[1:]  # type: ignore[return-value]


@contextmanager
def _opened(plan: MergePlan, target: Target, options: MergeOptions) -> Iterator[_Open]:
    """Journal and shards of a merge, with what an earlier run has finished."""
    shards = lay_out_result(plan, target, options.max_shard_bytes)
    with explained(target.work):
        target.work.mkdir(parents=True, exist_ok=True)
        take_back(target.work, shards, target.places(shards))
        remove_others(target.work, shards)
    fingerprint = plan.fingerprint({shard.file: xxhash.xxh3_128_hexdigest(shard.header) for shard in shards})
    with (
        Journal(target.work / JOURNAL, fingerprint) as journal,
        Output(target.work, shards, continues=journal.continues) as output,
    ):
        earlier = _check_finished(plan, journal, output)
        yield _Open(Run(plan, output, journal), target, shards, output, earlier)


def _check_finished(plan: MergePlan, journal: Journal, output: Output) -> frozenset[str]:
    """Forget tensors of an earlier run whose bytes did not reach the disk; name the others."""
    buffer = memoryview(bytearray(_HASH_BYTES))
    sizes = {work.name: work.size_bytes for work in plan.works}
    for name, line in list(journal.finished.items()):
        digest = xxhash.xxh3_128()
        for start in range(0, sizes[name], _HASH_BYTES):
            view = buffer[: min(_HASH_BYTES, sizes[name] - start)]
            output.read(name, start, view)
            digest.update(view)
        if digest.hexdigest() != line["output"]:
            del journal.finished[name]
    return frozenset(journal.finished)


def _outcome(act: Callable[[], StreamedMerge]) -> StreamedMerge | MergeError:
    try:
        return act()
    except MergeError as exc:
        return exc


def _finish(one: _Open, hashes: FileHashes, started: float) -> StreamedMerge:
    """All that follows once the tensors are made."""
    plan = one.run.plan
    manifest = describe_merge(plan, one.run.journal, one.shards, one.earlier)
    hashes.add_inputs(manifest, plan.sources)
    check_unchanged(plan.sources)
    finish(plan, one.target, one.shards, one.output, manifest, hashes)
    return StreamedMerge(
        one.target.out,
        manifest["output"]["digest"],
        sum(shard.size_bytes for shard in one.shards),
        perf_counter() - started,
        len(plan.works),
        len(one.earlier),
        plan.arithmetic,
    )


def _left(plan: MergePlan, target: Target, manifest: Mapping[str, Any]) -> StreamedMerge:
    """A merge that was finished before."""
    output = manifest["output"]
    size, count = sum(output["size_bytes"].values()), len(plan.works)
    return StreamedMerge(
        target.out, output["digest"], size, 0.0, count, count, manifest["arithmetic"], was_finished=True
    )
