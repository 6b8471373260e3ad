"""The base and the experts: found among the finished work, or trained now."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from merge_lib import workloads
from tasks.caching import cache_key
from tasks.devices import visible_devices
from tasks.jobs import Finished, Setting, TrainingJob
from tasks.progress import Step, report, reporter
from tasks.records import Record
from tasks.slots import compute_slot, sole_worker

CHECKPOINT = "model.safetensors"


@task(task_run_name="obtain the base", cache_policy=NO_CACHE)
def obtain_base(setting: Setting, checkpoint: str | None, seed: int) -> Finished:
    """The base: the user's checkpoint, or pre-trained by the workload."""
    if checkpoint is not None:
        return import_base(setting, Path(checkpoint))
    return pretrain(setting, seed)


def pretraining_key(setting: Setting, seed: int) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Key, inputs and parameters of the pre-training."""
    config = workloads.parse(setting.workload)
    inputs = setting.hashes_of(config.pretraining_snapshots())
    params = {
        "workload": config.parameters_of("pretrain"),
        **config.facts_of("pretrain", setting.tasks, Path(setting.root) / config.data),
        "seed": seed,
        "threads": setting.threads,
    }
    key = cache_key("pretrain", inputs=inputs, params=params, code=config.code("pretrain"))
    return key, inputs, params


def pretrain(setting: Setting, seed: int) -> Finished:
    """Pre-train the base, unless it is among the finished work."""
    key, inputs, params = pretraining_key(setting, seed)
    with sole_worker(key):
        if (found := find_checkpoint(setting, "pretrain", key, "base")) is not None:
            return found
        with compute_slot(), setting.store.writing("pretrain", key) as (folder, commit):
            workload = open_workload(setting)
            lineage = {"kind": "pretrain", "key": key, "inputs": inputs, "params": params}
            made = workload.pretrain(
                folder / CHECKPOINT, seed=seed, lineage=lineage, progress=reporter("pretrain", "base")
            )
            record = commit(inputs=inputs, params=params, values=_values(made))
    return Finished.from_record(record, setting.store.folder("pretrain", key), reused=False)


def import_base(setting: Setting, checkpoint: Path) -> Finished:
    """A base that the user brings: used where it lies, known by its digest."""
    from merge_lib.checkpoints import checkpoint_digest

    path = checkpoint if checkpoint.is_absolute() else Path(setting.root) / checkpoint
    digest = checkpoint_digest(path)
    report(Step("pretrain", "base", 1.0, reused=True))
    return Finished("base", digest, str(path), digest, path.stat().st_size, 0.0, reused=True)


@task(task_run_name="train {job.label}", cache_policy=NO_CACHE)
def train_expert(setting: Setting, job: TrainingJob, start: Finished) -> Finished:
    """The checkpoint that comes of fine-tuning `start` as the job says."""
    return fine_tune(setting, job, start)


def training_key(
    setting: Setting, job: TrainingJob, start_digest: str
) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Key, inputs and parameters of a fine-tuning."""
    config = workloads.parse(setting.workload)
    inputs = {"start": start_digest} | setting.hashes_of(config.task_snapshots(job.train_on))
    params = {
        "workload": config.parameters_of("train"),
        **config.facts_of("train", setting.tasks, Path(setting.root) / config.data),
        "train_on": list(job.train_on),
        "seed": job.seed,
        "threads": setting.threads,
    }
    return cache_key("train", inputs=inputs, params=params, code=config.code("train")), inputs, params


def fine_tune(setting: Setting, job: TrainingJob, start: Finished) -> Finished:
    """Fine-tune, unless the result is among the finished work."""
    key, inputs, params = training_key(setting, job, start.digest)
    with sole_worker(key):
        if (found := find_checkpoint(setting, "train", key, job.label)) is not None:
            return found
        with compute_slot(), setting.store.writing("train", key) as (folder, commit):
            workload = open_workload(setting)
            lineage = {"kind": "train", "key": key, "inputs": inputs, "params": params}
            made = workload.fine_tune(
                Path(start.path),
                job.train_on,
                folder / CHECKPOINT,
                seed=job.seed,
                lineage=lineage,
                progress=reporter("train", job.label),
            )
            record = commit(inputs=inputs, params=params, values=_values(made))
    return Finished.from_record(record, setting.store.folder("train", key), reused=False)


def find_checkpoint(setting: Setting, kind: str, key: str, label: str) -> Finished | None:
    """The finished checkpoint of that key, reported as a step that took no work."""
    record: Record | None = setting.store.find(kind, key)
    if record is None:
        return None
    report(Step(kind, label, 1.0, reused=True))
    return Finished.from_record(record, setting.store.folder(kind, key), reused=True)


def open_workload(setting: Setting) -> workloads.Workload:
    """The workload of the run, on the snapshots in the project's folder; opened once a process."""
    return _open(setting.root, json.dumps(setting.workload), setting.tasks, json.dumps(setting.data))


@lru_cache(maxsize=4)
def _open(root: str, settings: str, tasks: tuple[str, ...], _data: str) -> workloads.Workload:
    config = workloads.parse(json.loads(settings))
    return workloads.create(config, tasks=tasks, data=Path(root) / config.data)


def _values(made: workloads.TrainReport) -> dict[str, Any]:
    return {
        "checkpoint": CHECKPOINT,
        "digest": made.digest,
        "size_bytes": made.size_bytes,
        "elapsed_s": made.elapsed_s,
        "steps": made.steps,
        "losses": made.losses,
        "validation_accuracy": made.validation_accuracy,
        "visible_devices": list(visible_devices()),
    }
