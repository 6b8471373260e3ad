"""Training on workers: one flow run of the training deployment for each expert."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.deployments import run_deployment

from merge_lib.errors import TrainingError
from tasks.jobs import Finished, Setting, TrainingJob
from tasks.training import digests_of, find_checkpoint, training_key

ATTEMPTS = 20  # flow runs of one training that may have failed before
CRASHES = 2  # workers that one training may lose here before it is given up


@task(task_run_name="hand out {job.label}", cache_policy=NO_CACHE)
def train_on_worker(
    setting: Setting, job: TrainingJob, start: Finished, trainer: str, earlier: Sequence[Finished] = ()
) -> Finished:
    """The trained checkpoint, made by a worker that shares this project's folder.

    The idempotency key is the key of the work: a study that was killed and goes on finds the training that a
    worker still runs, and waits for it. A worker that is lost on the way costs an attempt, not the study.

    Raises:
        TrainingError: the worker's flow run ended without the checkpoint.
    """
    key = training_key(setting, job, *digests_of(start, earlier))[0]
    if (found := find_checkpoint(setting, "train", key, job.label)) is not None:
        return found
    parameters = {"setting": asdict(setting), "job": asdict(job), "start": asdict(start)}
    parameters |= {"earlier": [asdict(one) for one in earlier]} if earlier else {}
    crashes = 0
    for attempt in range(ATTEMPTS):
        ask = partial(
            run_deployment,
            trainer,
            parameters=parameters,
            flow_run_name=job.label,
            idempotency_key=f"{key}-{attempt}",
            poll_interval=2,
        )
        flow_run = ask(timeout=0)
        was_over = flow_run.state is not None and flow_run.state.is_final()
        state = (flow_run if was_over else ask(timeout=None)).state
        if (found := find_checkpoint(setting, "train", key, job.label)) is not None:
            return found
        if was_over:
            continue
        crashes += 1
        if crashes > CRASHES or not state.is_crashed():
            raise TrainingError(
                f"The worker's flow run '{flow_run.name}' of deployment '{trainer}' ended {state.name} without a "
                f"checkpoint: {state.message or 'no message'}. Look at its logs, mend it and run again."
            )
    raise TrainingError(
        f"{ATTEMPTS} flow runs of '{job.label}' have failed. Look at their logs before another try."
    )
