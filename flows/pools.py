"""What we ask of the Prefect server and tell it: whether it answers, the work pools, runs that are lost."""

from collections.abc import Collection
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psutil

from merge_lib.errors import SpecError

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

GPU_POOL, CPU_POOL = "gpu", "cpu"
UNSIGNED_S = 120.0  # between a worker's taking a flow run and its writing its name on it: one request


def require_server() -> str:
    """The URL of the Prefect server in use.

    Raises:
        SpecError: none is named, or it does not answer.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    how = (
        "Start one with `prefect server start` (it runs until you stop it) and name it with "
        "`export PREFECT_API_URL=http://127.0.0.1:4200/api`; then run this command again."
    )
    url = PREFECT_API_URL.value()
    if not url:
        raise SpecError(
            f"Workers take their work from a Prefect server, and PREFECT_API_URL names none. {how}"
        )
    with get_client(sync_client=True) as client:
        failure = client.api_healthcheck()
    if failure is not None:
        raise SpecError(
            f"The Prefect server at {url}, which PREFECT_API_URL names, does not answer: {failure}. "
            f"See that it runs and that the address is right. {how}"
        )
    return url


def make_pools() -> list[str]:
    """Make the work pools that are not there yet; returns their names."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    made = []
    with get_client(sync_client=True) as client:
        for name in (CPU_POOL, GPU_POOL):
            try:
                client.read_work_pool(name)
            except ObjectNotFound:
                template = ProcessWorker.get_default_base_job_template()
                client.create_work_pool(WorkPoolCreate(name=name, type="process", base_job_template=template))
                made.append(name)
    return made


def report_lost_runs(workers: Collection[str], *, pending_s: float) -> list[str]:
    """Tell the server which flow runs of these workers of this machine are gone; returns their names.

    A worker that was stopped or killed leaves its flow runs "Running" on the server for ever, and who waits for one
    of them would wait as long.

    Args:
        workers: names of workers.
        pending_s: how long a run may have been on its way into a process without being lost.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter
    from prefect.states import Crashed

    unfinished = FlowRunFilter.model_validate(
        {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}}
    )
    pools = WorkPoolFilter.model_validate({"name": {"any_": [GPU_POOL, CPU_POOL]}})
    alive = _flow_runs_here()
    lost = []
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=unfinished, work_pool_filter=pools, limit=200):
            if str(run.id) not in alive and _is_lost(run, workers, pending_s):
                client.set_flow_run_state(run.id, Crashed(message="Its worker was stopped, or its machine."))
                lost.append(run.name)
    return lost


def _is_lost(run: "FlowRun", workers: Collection[str], pending_s: float) -> bool:
    """Whether a flow run without a process here is one of these workers', or of one stopped before it could sign."""
    worker = run.labels.get("prefect.worker.name")
    pending_for_s = (
        (datetime.now(UTC) - run.state.timestamp).total_seconds() if run.state.is_pending() else None
    )
    if worker is None:
        return pending_for_s is not None and pending_for_s > UNSIGNED_S
    return worker in workers and (pending_for_s is None or pending_for_s > pending_s)


def _flow_runs_here() -> set[str]:
    """The ids of the flow runs that have a process on this machine."""
    found = set()
    for process in psutil.process_iter():
        try:
            found.add(process.environ().get("PREFECT__FLOW_RUN_ID", ""))
        except psutil.Error:
            continue  # ended meanwhile, or another user's
    return found
