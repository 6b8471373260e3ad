"""A run that is killed at any moment and resumed gives what an undisturbed run gives."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.journal import results_of
from tasks.project import Project
from tasks.records import RecordStore
from tasks.runs import list_runs, load_run

pytestmark = pytest.mark.slow

KILLS = 10
# Counts what it does to the files of finished work and of the run; at the given count it sends itself a signal.
# Audit events come before the operation, so a file may be open and half written, or a folder not yet renamed.
COUNTING = """
import os, signal, sys, threading
from pathlib import Path

sent, at, told = int(sys.argv.pop(1)), int(sys.argv.pop(1)), sys.argv.pop(1)
places = tuple(str(Path.cwd() / ".mergeline" / name) for name in ("store", "runs"))
lock, count = threading.Lock(), 0

def hook(event, arguments):
    global count
    if event not in ("open", "os.rename", "os.mkdir", "os.remove", "shutil.rmtree"):
        return
    if not str(arguments[0]).startswith(places) or (event == "open" and "w" not in str(arguments[1])):
        return
    with lock:
        count += 1
    if count == at:
        os.kill(os.getpid(), sent)

sys.addaudithook(hook)
from flows.cli import main
try:
    main()
finally:
    Path(told).write_text(str(count))
"""


@pytest.fixture
def environment(prefect_server) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return {**kept, "PREFECT_API_URL": prefect_server}


def run(root: Path, environment: dict[str, str], *asked: str, sent: int = 0, at: int = 0):
    """The finished process, and what it counted if it lived to tell."""
    told = root / "count"
    command = [sys.executable, "-c", COUNTING, str(int(sent)), str(at), str(told), "run", *asked]
    ended = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    return ended, int(told.read_text()) if told.exists() else 0


def digests(project: Project, run_id: str) -> dict:
    rows = results_of(project, run_id).rows
    return {
        (row.label, row.regime, row.seed): ([ref.digest for ref in row.checkpoints], row.accuracy)
        for row in rows
    }


@pytest.mark.parametrize(
    ("kills", "settings"), [(KILLS, ()), (5, ("--set", "keep_merged=false"))], ids=["kept", "not kept"]
)
def test_kills_change_nothing(kills, settings, tiny_project, environment, migrated_store):
    calm, killed = Project(tiny_project("calm")), Project(tiny_project("killed"))
    for project in (calm, killed):
        (project.state / "mlflow.db").write_bytes(migrated_store.read_bytes())
    done, count = run(calm.root, environment, "studies/digits.yaml", *settings)
    assert done.returncode == 0, done.stderr
    expected = digests(calm, list_runs(calm)[0])

    asked: tuple[str, ...] = ("studies/digits.yaml", *settings)
    for _ in range(
        kills
    ):  # none comes to the end: each gets a part of the way, two parts more than there are kills
        ended, _ = run(killed.root, environment, *asked, sent=signal.SIGKILL, at=count // (kills + 2))
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        asked = ("--resume", "latest")
    assert load_run(killed, "latest").status == "running"
    done, _ = run(killed.root, environment, "--resume", "latest")
    assert done.returncode == 0, done.stderr
    assert len(list_runs(killed)) == 1
    assert digests(killed, list_runs(killed)[0]) == expected
    assert RecordStore(killed.store).remove_leftovers() == 0
    assert any(killed.store.glob("merge/*/*.safetensors")) == (not settings)


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(tiny_project, environment, migrated_store):
    project = Project(tiny_project())
    (project.state / "mlflow.db").write_bytes(migrated_store.read_bytes())
    stopped, _ = run(project.root, environment, "studies/digits.yaml", sent=signal.SIGINT, at=12)
    assert stopped.returncode == 130, stopped.stderr
    run_id = list_runs(project)[0]
    assert f"mergeline run --resume {run_id}" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert load_run(project, run_id).status == "stopped"
    done, _ = run(project.root, environment, "--resume", run_id)
    assert done.returncode == 0, done.stderr
    assert load_run(project, run_id).status == "finished"
