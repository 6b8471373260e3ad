"""The first step of every run: data brought up to date, its content hashes handed on."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks import versioning
from tasks.project import Project


@task(task_run_name="version the data", cache_policy=NO_CACHE)
def version_data(root: str, needed: tuple[str, ...]) -> versioning.DataVersion:
    """Bring the data stages that make these snapshots up to date; the hashes of the snapshots.

    Raises:
        DataError: a stage failed, or no stage makes a snapshot that the study needs.
    """
    return versioning.version_of(Project(Path(root)), needed)


@task(task_run_name="push the data", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=2)
def push_data(root: str, needed: tuple[str, ...]) -> None:
    """Push the snapshots to the configured DVC remote."""
    versioning.push(Project(Path(root)), needed)
