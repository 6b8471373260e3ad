"""Evaluation: the accuracy of checkpoints on every task of the sequence."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from merge_lib import workloads
from merge_lib.errors import MergeError
from merge_lib.types import StateDict
from tasks.caching import cache_key
from tasks.jobs import Finished, Scores, Setting
from tasks.progress import Step, report
from tasks.records import Record
from tasks.slots import compute_slot, sole_worker
from tasks.training import open_workload


@task(task_run_name="evaluate {label}", cache_policy=NO_CACHE)
def evaluate_checkpoints(setting: Setting, label: str, checkpoints: list[Finished]) -> list[Scores]:
    """The scores of each checkpoint, in order."""
    return [
        evaluate_one(setting, f"{label} · {n}", checkpoint) for n, checkpoint in enumerate(checkpoints, 1)
    ]


def evaluation_key(setting: Setting, digest: str) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Key, inputs and parameters of an evaluation on the test split of every task."""
    config = workloads.parse(setting.workload)
    snapshots = (*config.task_snapshots(setting.tasks), *config.probe_snapshots())
    inputs = {"checkpoint": digest} | setting.hashes_of(snapshots)
    params = {"workload": config.parameters_of("evaluate"), "tasks": list(setting.tasks), "split": "test"}
    return cache_key("evaluate", inputs=inputs, params=params, code=config.code("evaluate")), inputs, params


def evaluate_one(setting: Setting, label: str, checkpoint: Finished) -> Scores:
    """The scores of one checkpoint, unless they are among the finished work."""
    if checkpoint.path is None:
        if checkpoint.scores is None:
            raise MergeError(
                f"Merge {checkpoint.digest} was neither kept nor evaluated. Run the study again."
            )
        return checkpoint.scores
    if (found := find_scores(setting, checkpoint.digest)) is not None:
        report(Step("evaluate", label, 1.0, reused=True))
        return found
    from merge_lib.checkpoints import read_state_dict

    with compute_slot():
        read = partial(read_state_dict, Path(checkpoint.path))
        return evaluate_tensors(setting, label, checkpoint.digest, read)


def find_scores(setting: Setting, digest: str) -> Scores | None:
    """The scores of the checkpoint of that digest, wherever it lies or lay, if they are among the finished work."""
    record = setting.store.find("evaluate", evaluation_key(setting, digest)[0])
    return None if record is None else _scores(setting, digest, record, reused=True)


def evaluate_tensors(setting: Setting, label: str, digest: str, read: Callable[[], StateDict]) -> Scores:
    """The scores of a model whose tensors are read, or at hand; the caller holds a slot.

    The lock is taken inside the slot, always: whoever waits for it waits for one who computes.
    """
    key, inputs, params = evaluation_key(setting, digest)
    with sole_worker(key):
        scores = find_scores(setting, digest)
        if scores is None:
            report(Step("evaluate", label, 0.0))
            started = time.perf_counter()
            measured = _measured(setting, label, read, (*setting.tasks, *probes_of(setting)))
            values = {**apart(setting, measured), "elapsed_s": time.perf_counter() - started}
            with setting.store.writing("evaluate", key) as (_, commit):
                record = commit(inputs=inputs, params=params, values=values)
            scores = _scores(setting, digest, record, reused=False)
    report(Step("evaluate", label, 1.0, reused=scores.reused))
    return scores


def evaluate_each(
    setting: Setting, label: str, digest: str, tensors: StateDict, tasks: Sequence[str]
) -> dict[str, float]:
    """The accuracy of a model on some of the tasks or probes, from the finished work where it is known."""
    known = find_scores(setting, digest)
    if known is not None and not set(tasks) - (values := known.by_name(setting.tasks)).keys():
        return {task: values[task] for task in tasks}
    return _measured(setting, label, lambda: tensors, tasks)


def keep_scores(
    setting: Setting, label: str, digest: str, measured: dict[str, float], elapsed_s: float
) -> Scores:
    """Scores, by task or probe, that were put together from several models, under the digest of them all."""
    key, inputs, params = evaluation_key(setting, digest)
    values = {**apart(setting, measured), "elapsed_s": elapsed_s}
    with sole_worker(key), setting.store.writing("evaluate", key) as (_, commit):
        record = commit(inputs=inputs, params=params, values=values)
    report(Step("evaluate", label, 1.0))
    return _scores(setting, digest, record, reused=False)


def apart(setting: Setting, measured: dict[str, float]) -> dict[str, dict[str, float]]:
    """What a record says of the tasks, and of probes if there are any."""
    probes = {name: value for name, value in measured.items() if name not in setting.tasks}
    accuracy = {task: measured[task] for task in setting.tasks}
    return {"accuracy": accuracy, **({"probes": probes} if probes else {})}


def probes_of(setting: Setting) -> tuple[str, ...]:
    """What the workload measures beside the accuracy on each task."""
    workload = open_workload(setting)
    return workload.probes if isinstance(workload, workloads.Measuring) else ()


def _measured(
    setting: Setting, label: str, read: Callable[[], StateDict], names: Sequence[str]
) -> dict[str, float]:
    """On each task or probe; a refusal says of which model it is."""
    try:
        return open_workload(setting).evaluate(read(), names)
    except MergeError as refusal:
        raise type(refusal)(f"{label}: {refusal}") from refusal


def _scores(setting: Setting, digest: str, record: Record, *, reused: bool) -> Scores:
    accuracy = tuple(record.values["accuracy"][name] for name in setting.tasks)
    return Scores(digest, accuracy, record.values["elapsed_s"], reused, record.values.get("probes", {}))
