"""The base and the experts: found among the finished work, or trained now."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from prefect import task
from prefect.cache_policies import NO_CACHE

from merge_lib import workloads
from merge_lib.errors import TrainingError
from merge_lib.workloads.training.assignments import Assignment
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
    return _obtain(setting, Training("pretrain", key, "base", inputs, params, seed))


def import_base(setting: Setting, checkpoint: Path) -> Finished:
    """A base that the user brings: used where it lies, known by its digest."""
    from merge_lib.checkpoints import checkpoint_digest

    path = checkpoint if checkpoint.is_absolute() else Path(setting.root) / checkpoint
    digest = checkpoint_digest(path)
    report(Step("pretrain", "base", 1.0, reused=True))
    return Finished("base", digest, str(path), digest, path.stat().st_size, 0.0, reused=True)


@task(task_run_name="train {job.label}", cache_policy=NO_CACHE)
def train_expert(
    setting: Setting, job: TrainingJob, start: Finished, earlier: Sequence[Finished] = ()
) -> Finished:
    """The checkpoint that comes of fine-tuning `start` as the job says; see `fine_tune`."""
    return fine_tune(setting, job, start, earlier)


def training_key(
    setting: Setting, job: TrainingJob, start_digest: str, *earlier: str
) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Key, inputs and parameters of a fine-tuning.

    Args:
        setting: of the run.
        job: what is trained.
        start_digest: of the checkpoint that it starts from.
        earlier: digests of those before it, the last of them first, where a learner looks back.
    """
    config = workloads.parse(setting.workload)
    inputs = {"start": start_digest} | setting.hashes_of(config.task_snapshots(job.train_on + job.before))
    inputs |= {f"{place} before": digest for place, digest in enumerate(earlier, 1)}
    params = {
        "workload": config.parameters_of("train"),
        **config.facts_of("train", setting.tasks, Path(setting.root) / config.data),
        "train_on": list(job.train_on),
        "seed": job.seed,
        "threads": setting.threads,
    }
    code = config.code("train")
    if job.learner:
        settings = learner_of(job)
        params |= {"learner": job.learner, "params": job.params, "before": list(job.before)}
        code = (*code, *settings.code())
    return cache_key("train", inputs=inputs, params=params, code=code), inputs, params


def learner_of(job: TrainingJob) -> workloads.LearnerSettings:
    """The learner that the job names, set up."""
    return workloads.learners.get(job.learner).model_validate(job.params)


def digests_of(start: Finished, earlier: Sequence[Finished]) -> list[str]:
    """Of what a training is made from: the last checkpoint first."""
    return [one.digest for one in (start, *reversed(earlier))]


def fine_tune(
    setting: Setting, job: TrainingJob, start: Finished, earlier: Sequence[Finished] = ()
) -> Finished:
    """Fine-tune, unless the result is among the finished work.

    Args:
        setting: of the run.
        job: on what, and by which learner.
        start: the checkpoint to start from.
        earlier: those before it, from the base on, where a learner looks back.
    """
    key, inputs, params = training_key(setting, job, *digests_of(start, earlier))
    training = Training("train", key, job.label, inputs, params, job.seed, start.path, job.train_on)
    if job.learner:
        training = replace(training, job=job, earlier=tuple(one.path for one in earlier))
    return _obtain(setting, training)


@dataclass(frozen=True)
class Training:
    """One training, and what its record is to say."""

    kind: Literal["pretrain", "train"]
    key: str
    label: str
    inputs: dict[str, str]
    params: dict[str, Any]
    seed: int
    start: str | None = None
    train_on: tuple[str, ...] = ()
    job: TrainingJob | None = None  # of a learner
    earlier: tuple[str, ...] = ()  # checkpoints that the learner looks back at

    def assignment(self, setting: Setting, out: Path) -> Assignment:
        """The same in plain values."""
        lineage = {"kind": self.kind, "key": self.key, "inputs": self.inputs, "params": self.params}
        return Assignment(
            root=setting.root,
            plugins=setting.plugins,
            settings=setting.workload,
            tasks=setting.tasks,
            threads=setting.threads,
            start=self.start,
            train_on=self.train_on,
            out=str(out),
            seed=self.seed,
            lineage=lineage,
            partial=str(setting.partial(self.key)),
            **self._taught(),
        )

    def _taught(self) -> dict[str, Any]:
        """Which learner trains, and what it is told."""
        if self.job is None:
            return {}
        job = self.job
        return {"learner": job.learner, "params": job.params, "before": job.before, "earlier": self.earlier}


def _obtain(setting: Setting, training: Training) -> Finished:
    """The checkpoint of a training: found, or made now; a training that was killed goes on from its last save."""
    kind, key = training.kind, training.key
    with sole_worker(key):
        if (found := find_checkpoint(setting, kind, key, training.label)) is not None:
            return found
        with compute_slot(), setting.store.writing(kind, key) as (folder, commit):
            made = _carry_out(setting, training, training.assignment(setting, folder / CHECKPOINT))
            record = commit(inputs=training.inputs, params=training.params, values=_values(made))
        shutil.rmtree(setting.partial(key), ignore_errors=True)
    return Finished.from_record(record, setting.store.folder(kind, key), reused=False)


def _carry_out(setting: Setting, training: Training, assignment: Assignment) -> workloads.TrainReport:
    """Train in this process, or in several with a GPU each if the settings ask for it.

    Raises:
        TrainingError: it diverged, or does not fit into memory; the message names it.
    """
    devices = workloads.parse(setting.workload).devices(training.kind)
    progress = reporter(training.kind, training.label)
    try:
        if devices > 1:
            from merge_lib.workloads.training.together import train_together

            return train_together(assignment, devices, progress)
        return assignment.carry_out(open_workload(setting), progress)
    except TrainingError as failure:
        on = f" on {', '.join(training.train_on)}" if training.train_on else ""
        raise TrainingError(f"Training of {training.label}{on} stopped. {failure}") from failure


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
        "curves": asdict(made.curves),
        "micro_batch": made.micro_batch,
        "stopped_early": made.stopped_early,
        "resumed_at": made.resumed_at,
        "visible_devices": list(visible_devices()),
        **({} if made.taught is None else {"taught": made.taught, "fusions": made.fusions}),
    }
