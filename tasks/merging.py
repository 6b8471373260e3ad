"""Merging: every method on the experts seen so far, from one read of them.

The record of a merge that is not kept has no file; the merge is finished once it was evaluated, too.
"""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from merge_lib import kernels, registry
from merge_lib.errors import MergeError
from tasks.caching import cache_key
from tasks.evaluation import evaluate_tensors, find_scores
from tasks.jobs import Finished, MergeEntry, MergeJob, Setting
from tasks.progress import Step, StoppedError, report
from tasks.slots import compute_slot, memory_share, sole_worker
from tasks.training import CHECKPOINT

if TYPE_CHECKING:
    from merge_lib.spec import MergeSpec
    from merge_lib.streaming.in_memory import MergedInMemory

_ARITHMETIC = ("merge_lib.engine", "merge_lib.streaming.executing", *kernels.modules())
_COMPILERS = ("numba", "llvmlite")


@dataclass(frozen=True)
class Pending:
    """A merge that is to be made."""

    entry: MergeEntry
    key: str
    inputs: dict[str, str]
    params: dict[str, Any]


@task(task_run_name="merge {job.label}", cache_policy=NO_CACHE)
def merge_experts(setting: Setting, job: MergeJob, base: Finished, experts: list[Finished]) -> list[Finished]:
    """One merge for each entry of the job, in its order: a checkpoint, or the scores of one that is not kept."""
    return merge_missing(setting, job, base, experts)


def merging_key(
    entry: MergeEntry, seed: int, base_digest: str, expert_digests: list[str]
) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Key, inputs and parameters of one merge; the seed counts only for methods that draw."""
    info = registry.get(entry.method)
    inputs = {f"expert_{t}": digest for t, digest in enumerate(expert_digests)}
    if info.needs_base:
        inputs["base"] = base_digest
    params = {"method": entry.method, "params": entry.params, "seed": seed if info.randomised else 0}
    key = cache_key(
        "merge", inputs=inputs, params=params, code=(*_ARITHMETIC, info.module), compilers=_COMPILERS
    )
    return key, inputs, params


def recorded_merge(setting: Setting, key: str) -> Finished | None:
    """What is known of a merge that was made once; with its scores, where it was not kept."""
    record = setting.store.find("merge", key)
    if record is None:
        return None
    done = Finished.from_record(record, setting.store.folder("merge", key), reused=True)
    return done if done.path is not None else replace(done, scores=find_scores(setting, done.digest))


def is_finished(done: Finished | None, *, is_kept: bool) -> bool:
    """Whether nothing is left to do of a merge: it was kept, or need not be and was evaluated."""
    return done is not None and (done.path is not None or (not is_kept and done.scores is not None))


def merge_missing(setting: Setting, job: MergeJob, base: Finished, experts: list[Finished]) -> list[Finished]:
    """Make those merges that are not among the finished work, from one reading of base and experts.

    Raises:
        MergeError: a method refused; the others are finished first.
    """
    digests = [expert.digest for expert in experts]
    wanted = [Pending(entry, *merging_key(entry, job.seed, base.digest, digests)) for entry in job.entries]
    with sole_worker(" ".join(work.key for work in wanted)):
        found = {work.key: done for work in wanted if (done := _find(setting, job, work)) is not None}
        missing = [work for work in wanted if work.key not in found]
        if missing:
            with compute_slot():
                found |= _merge_all(setting, job, missing, base, experts)
    return [found[work.key] for work in wanted]


def _find(setting: Setting, job: MergeJob, work: Pending) -> Finished | None:
    """The merge if it is finished, reported as a step that took no work."""
    done = recorded_merge(setting, work.key)
    if not is_finished(done, is_kept=job.is_kept):
        return None
    report(Step("merge", job.label, 1.0, reused=True))
    return done


def _merge_all(
    setting: Setting, job: MergeJob, missing: list[Pending], base: Finished, experts: list[Finished]
) -> dict[str, Finished]:
    """From one reading; if a method refuses, one by one, so that the others are finished."""
    try:
        return _merge_together(setting, job, missing, base, experts)
    except StoppedError:
        raise
    except MergeError:
        if len(missing) == 1:
            raise
        return _merge_one_by_one(setting, job, missing, base, experts)


def _merge_together(
    setting: Setting, job: MergeJob, missing: list[Pending], base: Finished, experts: list[Finished]
) -> dict[str, Finished]:
    report(Step("merge", job.label, 0.0))
    specs = [_spec(work, base, experts) for work in missing]
    make = _merge_and_keep if job.is_kept else _merge_and_evaluate
    return make(setting, job, missing, specs)


def _spec(work: Pending, base: Finished, experts: list[Finished]) -> "MergeSpec":
    from merge_lib import MergeSpec

    paths = [Path(done.path) for done in (base, *experts) if done.path is not None]
    return MergeSpec(
        method=work.entry.method,
        params=work.entry.params,
        base=paths[0],
        experts=tuple(paths[1:]),
        seed=work.params["seed"],
    )


def _merge_and_keep(
    setting: Setting, job: MergeJob, missing: list[Pending], specs: list["MergeSpec"]
) -> dict[str, Finished]:
    from merge_lib import merge_many

    lineages = [{"kind": "merge", "key": work.key, "inputs": work.inputs} for work in missing]
    done: dict[str, Finished] = {}
    with ExitStack() as stack:
        places = [stack.enter_context(setting.store.writing("merge", work.key)) for work in missing]
        outs = [folder / CHECKPOINT for folder, _ in places]
        reports = merge_many(specs, outs, lineages=lineages, threads=setting.threads)
        for work, (_, commit), made in zip(missing, places, reports, strict=True):
            values = {"checkpoint": CHECKPOINT, "digest": made.digest, "size_bytes": made.size_bytes}
            record = commit(
                inputs=work.inputs, params=work.params, values={**values, "elapsed_s": made.elapsed_s}
            )
            folder = setting.store.folder("merge", work.key)
            done[work.key] = Finished.from_record(record, folder, reused=False)
            report(Step("merge", f"{work.entry.label} · {job.label}", 1.0))
    return done


def _merge_and_evaluate(
    setting: Setting, job: MergeJob, missing: list[Pending], specs: list["MergeSpec"]
) -> dict[str, Finished]:
    """Each handed to the evaluation as it is made; as many in memory at once as there is room for."""
    from merge_lib import merge_in_turn

    merges = merge_in_turn(specs, memory_bytes=memory_share(), threads=setting.threads)
    return {work.key: _evaluate(setting, job, work, next(merges)) for work in missing}


def _evaluate(setting: Setting, job: MergeJob, work: Pending, merged: "MergedInMemory") -> Finished:
    label = f"{work.entry.label} · {job.label}"
    values = {"checkpoint": None, "digest": merged.digest, "size_bytes": merged.size_bytes}
    with setting.store.writing("merge", work.key) as (_, commit):
        record = commit(
            inputs=work.inputs, params=work.params, values={**values, "elapsed_s": merged.elapsed_s}
        )
    report(Step("merge", label, 1.0))
    scores = evaluate_tensors(setting, label, merged.digest, lambda: merged.tensors)
    made = Finished.from_record(record, setting.store.folder("merge", work.key), reused=False)
    return replace(made, scores=scores)


def _merge_one_by_one(
    setting: Setting, job: MergeJob, missing: list[Pending], base: Finished, experts: list[Finished]
) -> dict[str, Finished]:
    done: dict[str, Finished] = {}
    refusals = []
    for work in missing:
        try:
            if (found := _find(setting, job, work)) is not None:  # made before another was refused
                done[work.key] = found
            else:
                done |= _merge_together(setting, job, [work], base, experts)
        except StoppedError:
            raise
        except MergeError as refusal:
            label = f"{work.entry.label} · {job.label}"
            refusals.append(f"{label}: {str(refusal).removeprefix(f'{label}: ')}")
    if refusals:
        raise MergeError("\n".join(refusals))
    return done
