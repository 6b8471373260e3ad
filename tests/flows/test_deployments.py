"""The deployments, on a real Prefect server and real workers, with two GPUs that are only pretended."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.states import Pending

from flows import pools
from flows.pools import report_lost_runs
from tasks.project import Project
from tasks.records import Record, RecordStore
from tasks.runs import list_runs, load_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
DEADLINE_S = 240.0  # for any one thing to happen; it takes seconds


@pytest.fixture
def project(tiny_project, prefect_server, tmp_path, monkeypatch) -> Project:
    """A project that is deployed to the server."""
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    locks = tmp_path / "tmp"
    locks.mkdir()
    monkeypatch.setenv("TMPDIR", str(locks))
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect-home"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    root = tiny_project()
    shutil.copy(ROOT / "prefect.yaml", root)
    subprocess.run(mergeline("deploy"), cwd=root / "studies", check=True, stdin=subprocess.DEVNULL)
    return Project(root)


@pytest.fixture
def client(project) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client
        for run in (*runs_of(client, "study/nightly"), *runs_of(client, "fine-tune/gpu")):
            client.delete_flow_run(run.id)  # what still waits would start with the next test's workers


def mergeline(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "flows.cli", *arguments]


@contextmanager
def workers_running(project: Project, client: SyncPrefectClient) -> Iterator[subprocess.Popen]:
    """`mergeline workers` on two pretended GPUs, once all three workers have told the server of themselves."""
    process = subprocess.Popen(mergeline("workers", "--devices", "0,1"), cwd=project.root)
    try:
        until(lambda: online(client, "gpu") >= 2 and online(client, "cpu") >= 1, process)
        yield process
    finally:
        family = descendants(process)
        process.terminate()
        assert process.wait(DEADLINE_S) == 0
        assert [child for child in family if child.is_running()] == []


def online(client: SyncPrefectClient, pool: str) -> int:
    answer = client._client.post(f"/work_pools/{pool}/workers/filter", json={})
    return sum(worker["status"] == "ONLINE" for worker in answer.json())


def descendants(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []


def until(is_so: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert process.poll() is None, "the workers have ended"
        assert time.monotonic() < deadline
        time.sleep(0.5)  # between two questions


def schedule(client: SyncPrefectClient, start: datetime, count: int) -> list[FlowRun]:
    """The runs that the cron schedule asks for from that time on, made as the server's scheduler makes them."""
    deployment = client.read_deployment_by_name("study/nightly")
    before = {run.id for run in runs_of(client, "study/nightly")}
    wanted = {"start_time": start.isoformat(), "min_runs": count, "max_runs": count}
    client._client.post(f"/deployments/{deployment.id}/schedule", json=wanted).raise_for_status()
    return [run for run in runs_of(client, "study/nightly") if run.id not in before]


def runs_of(client: SyncPrefectClient, deployment: str) -> list[FlowRun]:
    known = DeploymentFilterId(any_=[client.read_deployment_by_name(deployment).id])
    return client.read_flow_runs(deployment_filter=DeploymentFilter(id=known), limit=200)


def ended(client: SyncPrefectClient, runs: list[FlowRun], process: subprocess.Popen) -> list[str]:
    """The names of the states in which the runs ended, sorted."""
    asked = FlowRunFilter(id=FlowRunFilterId(any_=[run.id for run in runs]))
    until(lambda: all(run.state.is_final() for run in client.read_flow_runs(flow_run_filter=asked)), process)
    return sorted(run.state.name for run in client.read_flow_runs(flow_run_filter=asked))


def trainings(project: Project) -> list[Record]:
    return sorted(RecordStore(project.store).of_kind("train"), key=lambda record: record.finished_at)


def test_scheduled_studies_train_on_the_workers_of_two_devices(project, client):
    schedules = client.read_deployment_by_name("study/nightly").schedules
    assert [(s.schedule.cron, s.schedule.timezone) for s in schedules] == [("0 4 * * *", "Europe/Berlin")]
    with workers_running(project, client) as process:
        late = schedule(client, datetime(2026, 1, 10, tzinfo=UTC), 2)
        assert [run.expected_start_time.hour for run in late] == [
            3,
            3,
        ]  # 4 o'clock in a Berlin winter, in UTC
        assert ended(client, late, process) == [
            "Cancelled",
            "Completed",
        ]  # the second is left out, not queued
        check_first_run(project, client)
        again = schedule(client, datetime(2026, 7, 10, tzinfo=UTC), 1)
        assert [run.expected_start_time.hour for run in again] == [2]  # summer time
        assert ended(client, again, process) == ["Completed"]
    first, second = list_runs(project)
    assert load_run(project, second).unchanged_since == first
    assert len(runs_of(client, "fine-tune/gpu")) == 4
    assert len(trainings(project)) == 4


def check_first_run(project: Project, client: SyncPrefectClient) -> None:
    (run_id,) = list_runs(project)
    folder = project.runs / run_id
    assert load_run(project, run_id).status == "finished"
    assert (folder / "report" / "report.html").is_file()
    assert (folder / "results.json").is_file()
    runs = runs_of(client, "fine-tune/gpu")  # first of the sequence in every regime, then one second of each
    assert {run.state.name for run in runs} == {"Completed"}
    assert sorted(run.name for run in runs)[-1] == "sequential 2/2 · seed 0"
    done = trainings(project)
    assert len(done) == len(runs) == 4
    assert {device for record in done for device in record.values["visible_devices"]} == {"0", "1"}
    for device in ("0", "1"):
        here = [record for record in done if record.values["visible_devices"] == [device]]
        assert all(one.finished_at <= next_.finished_at - next_.elapsed_s for one, next_ in pairwise(here))


def test_stopping_the_workers_leaves_no_training_behind(project, client):
    with workers_running(project, client) as process:
        deployment = client.read_deployment_by_name("study/nightly")
        asked = {"overrides": ["workload.fine_tuning.epochs=100000", "regimes=[parallel]"]}
        study = client.create_flow_run_from_deployment(deployment.id, parameters=asked)
        until(lambda: any(project.store.glob("train/.*.partial")), process)
        family = descendants(process)
        assert any("prefect.engine" in " ".join(child.cmdline()) for child in family)
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0
    assert [child for child in family if child.is_running()] == []
    assert trainings(project) == []
    assert client.read_flow_run(study.id).state.name == "Crashed"  # not "Running" for ever
    states = {run.state.name for run in runs_of(client, "fine-tune/gpu")}
    assert "Crashed" in states
    # Those not taken yet wait for the next workers; one caught between taking and signing is found lost later.
    assert states <= {"Crashed", "Scheduled", "Late", "Pending"}


def test_a_flow_run_that_no_worker_signed_is_found_lost_in_time(project, client, monkeypatch):
    deployment = client.read_deployment_by_name("study/nightly")
    run = client.create_flow_run_from_deployment(deployment.id)
    client.set_flow_run_state(run.id, Pending())
    assert run.name not in report_lost_runs([], pending_s=0.0)  # its worker may be about to sign it
    monkeypatch.setattr(pools, "UNSIGNED_S", 0.0)
    assert run.name in report_lost_runs([], pending_s=0.0)
    assert client.read_flow_run(run.id).state.name == "Crashed"
