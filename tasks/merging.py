"""Merging: every method on the experts seen so far, from one read of them.

The record of a merge that is not kept has no file; the merge is finished once it was evaluated, too.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from merge_lib import registry
from merge_lib.errors import MergeError
from tasks.decoding import merge_decoded
from tasks.evaluation import evaluate_tensors
from tasks.facts import is_decoded, is_folded
from tasks.folding import Folding, take_tensors
from tasks.jobs import Finished, Found, MergeEntry, MergeJob, Setting
from tasks.learning import Learning, told_of_learning
from tasks.merge_keys import is_finished, is_stored, merging_key, recorded_merge
from tasks.progress import Step, StoppedError, report
from tasks.routing import KIND as ROUTE
from tasks.routing import Route, recorded_route, route_of
from tasks.slots import compute_slot, memory_share, sole_worker
from tasks.training import CHECKPOINT

if TYPE_CHECKING:
    from merge_lib.spec import MergeSpec
    from merge_lib.streaming.in_memory import MergedInMemory


@dataclass(frozen=True)
class Pending:
    """A merge that is to be made.

    Attributes:
        routes: ways to answer by its models, which are evaluated as they are made.
    """

    entry: MergeEntry
    key: str
    inputs: dict[str, str]
    params: dict[str, Any]
    routes: tuple[Route, ...] = ()


@task(task_run_name="merge {job.label}", cache_policy=NO_CACHE)
def merge_experts(
    setting: Setting, job: MergeJob, base: Finished, experts: list[Finished], found: list[Found]
) -> list[Finished]:
    """One merge for each entry of the job, in its order: a checkpoint, or the scores of one that is not kept.

    `found` has the coefficients of those entries that were searched for.
    """
    made = merge_missing(setting, job.settled(found), base, experts)
    told = {one.label: one.told for one in found}
    return [
        replace(done, search=told.get(entry.label)) for entry, done in zip(job.entries, made, strict=True)
    ]


@task(task_run_name="take the merge", cache_policy=NO_CACHE)
def take_only(merged: list[Finished]) -> Finished:
    """The one merge of a job with one entry, for an expert to start from."""
    return merged[0]


def merge_missing(setting: Setting, job: MergeJob, base: Finished, experts: list[Finished]) -> list[Finished]:
    """Make those merges that are not among the finished work, from one reading of base and experts.

    Raises:
        MergeError: a method refused; the others are finished first.
    """
    digests = [expert.digest for expert in experts]
    wanted = [_pending(setting, entry, job.seed, base.digest, digests) for entry in job.entries]
    together = _joined(wanted)
    with sole_worker(" ".join(work.key for work in together)):
        found: dict[str, Finished] = {}
        for work in together:
            found |= _found(setting, job, work)
        missing = _left(together, found)
        if missing:
            with compute_slot():
                found |= _merge_all(setting, job, missing, base, experts)
    return [found[work.routes[0].key if work.routes else work.key] for work in wanted]


def _pending(setting: Setting, entry: MergeEntry, seed: int, base_digest: str, digests: list[str]) -> Pending:
    told = merging_key(setting, entry, seed, base_digest, digests)
    route = route_of(setting, entry, told, base_digest)
    return Pending(entry, *told, () if route is None else (route,))


def _joined(wanted: Sequence[Pending]) -> list[Pending]:
    """Each merge once, with all ways to answer by its models."""
    together: dict[str, Pending] = {}
    for work in wanted:
        known = together.setdefault(work.key, replace(work, routes=()))
        routes = {route.key: route for route in (*known.routes, *work.routes)}
        together[work.key] = replace(known, routes=tuple(routes.values()))
    return list(together.values())


def _found(setting: Setting, job: MergeJob, work: Pending) -> dict[str, Finished]:
    """What is finished of a merge and its routes, by key, reported as steps that took no work."""
    found: dict[str, Finished] = {}
    done = recorded_merge(setting, work.key)
    if done is not None and is_finished(done, is_kept=is_stored(job, work.entry)):
        found[work.key] = done
        report(Step("merge", job.label, 1.0, reused=True))
    for route in work.routes:
        if (answered := recorded_route(setting, route.key)) is not None:
            found[route.key] = answered
            report(Step(ROUTE, f"{route.label} · {job.label}", 1.0, reused=True))
    return found


def _left(works: Sequence[Pending], found: Mapping[str, Finished]) -> list[Pending]:
    """What is still to be done of some merges, with those of their routes that are."""
    rest = [
        replace(work, routes=tuple(route for route in work.routes if route.key not in found))
        for work in works
    ]
    return [work for work in rest if work.routes or work.key not in found]


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
    """Those that need every expert from one reading; continual ones each from its state before."""
    report(Step("merge", job.label, 0.0))
    decoded = [work for work in missing if is_decoded(work.entry)]
    folded = [work for work in missing if is_folded(work.entry) and work not in decoded]
    at_once = [work for work in missing if work not in decoded and work not in folded]
    make = _merge_and_keep if job.is_kept else _merge_and_evaluate
    specs = [merge_spec(setting, work.entry, job.seed, base, experts) for work in at_once]
    done = make(setting, job, at_once, specs) if at_once else {}
    for work in folded:
        done[work.key] = _fold(setting, job, work, base, experts)
    for work in decoded:
        spec = merge_spec(setting, work.entry, job.seed, base, experts)
        done |= merge_decoded(setting, job.label, work, spec, base, experts)
    return done


def _fold(
    setting: Setting, job: MergeJob, work: Pending, base: Finished, experts: list[Finished]
) -> Finished:
    """One step of a continual method; a merge that is not kept is evaluated."""
    folding = Folding(setting, work.entry, work.params["seed"], base, experts)
    lineage = {"kind": "merge", "key": work.key, "inputs": work.inputs}
    tensors: dict[str, Any] = {}
    with setting.store.writing("merge", work.key) as (folder, commit):
        made = folding.step(folder / CHECKPOINT, lineage)
        merged, values = made.merged, made.values
        if not job.is_kept:
            tensors = take_tensors(folder / CHECKPOINT)
            size = sum(tensor.numel() * tensor.dtype.itemsize for tensor in tensors.values())
            values |= {"checkpoint": None, "size_bytes": size}
        record = commit(inputs=work.inputs, params=work.params, values=values)
    label = f"{work.entry.label} · {job.label}"
    report(Step("merge", label, 1.0))
    done = Finished.from_record(record, setting.store.folder("merge", work.key), reused=False)
    if job.is_kept:
        return done
    return replace(done, scores=evaluate_tensors(setting, label, merged.digest, lambda: tensors))


def merge_spec(
    setting: Setting, entry: MergeEntry, seed: int, base: Finished, experts: list[Finished]
) -> "MergeSpec":
    """The merge, with what its method learns from data first; the seed counts only for methods that draw."""
    from merge_lib import MergeSpec

    tasks = setting.tasks[: len(experts)]
    learning = Learning(setting, entry, seed, tasks, base, experts)
    paths = [Path(done.path) for done in (base, *experts) if done.path is not None]
    return MergeSpec(
        method=entry.method,
        params=entry.params,
        base=paths[0],
        experts=tuple(paths[1:]),
        seed=seed if registry.get(entry.method).randomised else 0,
        layer_scales=entry.layer_scales,
        equalise=entry.equalise,
        observations=learning.observations(),
        fitted=learning.fitted(),
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
        for work, spec, (_, commit), made in zip(missing, specs, places, reports, strict=True):
            values = {"checkpoint": CHECKPOINT, "digest": made.digest, "size_bytes": made.size_bytes}
            told = {**values, "elapsed_s": made.elapsed_s, **told_of_learning(setting, spec)}
            record = commit(inputs=work.inputs, params=work.params, values=told)
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
    return {
        work.key: _evaluate(setting, job, work, next(merges), told_of_learning(setting, spec))
        for work, spec in zip(missing, specs, strict=True)
    }


def _evaluate(
    setting: Setting, job: MergeJob, work: Pending, merged: "MergedInMemory", learning: dict[str, Any]
) -> Finished:
    label = f"{work.entry.label} · {job.label}"
    values = {"checkpoint": None, "digest": merged.digest, "size_bytes": merged.size_bytes}
    with setting.store.writing("merge", work.key) as (_, commit):
        told = {**values, "elapsed_s": merged.elapsed_s, **learning}
        record = commit(inputs=work.inputs, params=work.params, values=told)
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
            done |= _found(setting, job, work)  # made before another was refused
            if left := _left([work], done):
                done |= _merge_together(setting, job, left, base, experts)
        except StoppedError:
            raise
        except MergeError as refusal:
            label = f"{work.entry.label} · {job.label}"
            refusals.append(f"{label}: {str(refusal).removeprefix(f'{label}: ')}")
    if refusals:
        raise MergeError("\n".join(refusals))
    return done
