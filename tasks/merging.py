"""Merging: every method on the experts seen so far, from one read of them."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from merge_lib import kernels, registry
from merge_lib.errors import MergeError
from tasks.caching import cache_key
from tasks.jobs import Finished, MergeEntry, MergeJob, Setting
from tasks.progress import Step, StoppedError, report
from tasks.slots import compute_slot, sole_worker
from tasks.training import CHECKPOINT, find_checkpoint

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
    """One merged checkpoint for each entry of the job, in its order."""
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


def merge_missing(setting: Setting, job: MergeJob, base: Finished, experts: list[Finished]) -> list[Finished]:
    """Make those merges that are not among the finished work, from one reading of base and experts.

    Raises:
        MergeError: a method refused; the others are finished first.
    """
    digests = [expert.digest for expert in experts]
    wanted = [Pending(entry, *merging_key(entry, job.seed, base.digest, digests)) for entry in job.entries]
    with sole_worker(" ".join(work.key for work in wanted)):
        found = {work.key: find_checkpoint(setting, "merge", work.key, job.label) for work in wanted}
        missing = [work for work in wanted if found[work.key] is None]
        if missing:
            with compute_slot():
                found |= _merge_all(setting, job, missing, base, experts)
    return [done for work in wanted if (done := found[work.key]) is not None]


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
    from merge_lib import MergeSpec, merge_many

    report(Step("merge", job.label, 0.0))
    paths = tuple(Path(expert.path) for expert in experts)
    specs = [
        MergeSpec(
            method=work.entry.method,
            params=work.entry.params,
            base=Path(base.path),
            experts=paths,
            seed=work.params["seed"],
        )
        for work in missing
    ]
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


def _merge_one_by_one(
    setting: Setting, job: MergeJob, missing: list[Pending], base: Finished, experts: list[Finished]
) -> dict[str, Finished]:
    done: dict[str, Finished] = {}
    refusals = []
    for work in missing:
        try:
            done |= _merge_together(setting, job, [work], base, experts)
        except StoppedError:
            raise
        except MergeError as refusal:
            refusals.append(f"{work.entry.label} · {job.label}: {refusal}")
    if refusals:
        raise MergeError("\n".join(refusals))
    return done
