"""Evaluation: the accuracy of checkpoints on every task of the sequence."""

import time
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from merge_lib import workloads
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
    inputs = {"checkpoint": digest} | setting.hashes_of(config.task_snapshots(setting.tasks))
    params = {"workload": config.parameters_of("evaluate"), "tasks": list(setting.tasks), "split": "test"}
    return cache_key("evaluate", inputs=inputs, params=params, code=config.code("evaluate")), inputs, params


def evaluate_one(setting: Setting, label: str, checkpoint: Finished) -> Scores:
    """The scores of one checkpoint, unless they are among the finished work."""
    key, inputs, params = evaluation_key(setting, checkpoint.digest)
    with sole_worker(key):
        record = setting.store.find("evaluate", key)
        reused = record is not None
        if record is None:
            record = _evaluate(setting, label, checkpoint, key, inputs, params)
    report(Step("evaluate", label, 1.0, reused=reused))
    accuracy = tuple(record.values["accuracy"][name] for name in setting.tasks)
    return Scores(checkpoint.digest, accuracy, record.values["elapsed_s"], reused)


def _evaluate(
    setting: Setting,
    label: str,
    checkpoint: Finished,
    key: str,
    inputs: dict[str, str],
    params: dict[str, Any],
) -> Record:
    with compute_slot():
        report(Step("evaluate", label, 0.0))
        started = time.perf_counter()
        accuracy = open_workload(setting).evaluate(Path(checkpoint.path), setting.tasks)
        values = {"accuracy": accuracy, "elapsed_s": time.perf_counter() - started}
        with setting.store.writing("evaluate", key) as (_, commit):
            return commit(inputs=inputs, params=params, values=values)
