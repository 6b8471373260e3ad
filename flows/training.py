"""Training as a flow of its own, to be deployed to the pool whose workers have a GPU each."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import flow

from merge_lib.plugins import load_plugins
from tasks import slots
from tasks.devices import devices_held
from tasks.jobs import Finished, Setting, TrainingJob
from tasks.training import train_expert


@flow(name="fine-tune", flow_run_name="{job[label]}")
def fine_tune_flow(
    setting: dict[str, Any],
    job: dict[str, Any],
    start: dict[str, Any],
    earlier: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Train one checkpoint in the project's folder, which this worker shares with the study.

    Two workers that were given the same device train one after the other.
    """
    shared = Setting(**{**setting, "tasks": tuple(setting["tasks"]), "plugins": tuple(setting["plugins"])})
    load_plugins(Path(shared.root), shared.plugins)
    work = {**job, **{name: tuple(job[name]) for name in ("train_on", "before") if name in job}}
    before = [Finished(**one) for one in earlier]
    slots.configure(1, shared.threads)
    with devices_held():
        return asdict(train_expert(shared, TrainingJob(**work), Finished(**start), before))
