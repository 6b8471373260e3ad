"""The checks of `mergeline doctor`, each with what it should say; then all of them in a real project."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from flows import servers
from flows.doctor import Check, Examination, examine, folder, machine, ok, services
from merge_lib.errors import DataError
from tasks.payloads import RunPayload
from tasks.project import Project
from tasks.runs import outbox_of, start_run

GB = 1e9
GOOD = {"prefect": "3.8.8", "fastapi": "0.150.0", "mlflow": "3.17.2", "dvc": "3.67.1", "torch": "2.13.0+cpu"}


@pytest.mark.parametrize(
    ("found", "state"), [((3, 10), "problem"), ((3, 11), "ok"), ((3, 13), "ok"), ((3, 14), "problem")]
)
def test_python(found, state):
    assert machine.check_python(found).state == state


@pytest.mark.parametrize(
    ("changes", "state", "said"),
    [
        ({}, "ok", "prefect 3.8.8, mlflow 3.17.2, dvc 3.67.1; as locked"),
        ({"dvc": None, "fastapi": None}, "problem", "missing: dvc, fastapi"),
        ({"fastapi": "0.165.0"}, "problem", "with fastapi 0.165.0 no server of prefect 3.8.8 starts"),
        ({"mlflow": "2.22.0"}, "problem", "mlflow 2.22.0 has no logged models"),
        ({"dvc": "3.66.1"}, "problem", "dvc 3.66.1 wants a pathspec"),
        ({"pydantic": "2.11.3"}, "problem", "pydantic 2.11.3 is one that prefect cannot use"),
        ({"fastapi": "0.149.0"}, "warning", "not as locked: fastapi 0.149.0 (locked: 0.150.0)"),
    ],
)
def test_packages(changes, state, said):
    locked = {name: version.partition("+")[0] for name, version in GOOD.items()}
    (check,) = machine.check_packages({**GOOD, **changes}, locked)
    assert (check.state, said in check.found) == (state, True)
    assert bool(check.advice) == (state != "ok")


def test_the_lock_of_this_repository_has_the_pins_that_are_looked_at():
    locked = machine.locked_versions(Path(__file__).parents[2] / "requirements.lock")
    assert set(machine.PINNED) - {"torch"} <= set(locked)
    assert machine.broken_pairs(locked) == []
    assert machine.locked_versions(Path("no such file")) == {}


@pytest.mark.parametrize(
    ("devices", "visible", "state", "said"),
    [
        ([], None, "ok", "none; small studies do not need one"),
        ([], "", "ok", "none (CUDA_VISIBLE_DEVICES=)"),
        (
            [],
            "3",
            "problem",
            "CUDA_VISIBLE_DEVICES=3, but torch sees no GPU, and this torch is built without CUDA",
        ),
        ([["A100", [30 * GB, 40 * GB]]], "1", "ok", "A100 (30 of 40 GB free); CUDA_VISIBLE_DEVICES=1"),
    ],
)
def test_gpus(devices, visible, state, said):
    facts = {"version": "2.13.0", "built_for": None, "devices": devices}
    torch, gpu = machine.check_torch(facts, visible)
    assert (torch.state, torch.found) == ("ok", "2.13.0")
    assert gpu.state == state
    assert said in gpu.found


@pytest.mark.parametrize(("free", "state"), [(0.9 * GB, "problem"), (2.9 * GB, "warning"), (3 * GB, "ok")])
def test_disk(free, state):
    assert machine.check_disk("disk", free, GB).state == state


def test_memory():
    assert machine.check_memory(2, 1.0 * GB).state == "warning"
    assert machine.check_memory(2, 8.0 * GB) == ok("computer", "2 cores, 8.0 GB of memory free")


@pytest.mark.parametrize(
    ("on_disk", "record", "state"), [(1000, 900, "ok"), (1000, 1500, "problem"), (2000, 900, "warning")]
)
def test_clock(on_disk, record, state):
    assert folder.check_clock(1000.0, on_disk, record).state == state


def test_a_folder_that_cannot_be_written(tmp_path):
    assert folder.check_writable(Project(tmp_path)).state == "ok"
    check = folder.check_writable(Project(tmp_path / "missing"))
    assert check.state == "problem"
    assert "cannot be written: No such file or directory" in check.found


def test_remotes_are_read_and_the_default_one_is_looked_at(tmp_path):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text(
        "[core]\n    remote = near\n['remote \"far\"']\n    url = s3://bucket/x\n"
        "['remote \"near\"']\n    url = ../store\n"
    )
    remotes = folder.remotes_of(tmp_path)
    assert list(remotes.items()) == [("near", "../store"), ("far", "s3://bucket/x")]
    check = folder.check_remote(
        remotes, tmp_path, lambda: pytest.fail("a folder is not asked over a network")
    )
    assert check == ok("DVC remote", f"near: {tmp_path / 'store'}")
    assert "none yet" in folder.check_remote({}, tmp_path, lambda: None).found


def test_a_far_remote_is_asked(tmp_path):
    def refuse() -> None:
        raise DataError("no route")

    far = {"far": "s3://bucket/x"}
    assert folder.check_remote(far, tmp_path, lambda: None).state == "ok"
    check = folder.check_remote(far, tmp_path, refuse)
    assert check.state == "problem"
    assert "s3://bucket/x does not answer: no route" in check.found


def test_data():
    assert folder.check_data(has_stages=False, is_known=False).state == "problem"
    assert folder.check_data(has_stages=True, is_known=False).found.startswith("not made yet")
    assert folder.check_data(has_stages=True, is_known=True).found == "up to date"


def test_leftovers_and_records_that_wait(tmp_path):
    project = Project(tmp_path)
    assert [check.state for check in folder.check_leftovers(project)] == ["ok", "ok"]
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    (project.store / "train" / f".abc.{dead.pid}.partial").mkdir(parents=True)
    run = start_run(project, "digits", {}, "mergeline run")
    outbox_of(project, run.run_id).put(RunPayload("k", "digits", "n", None, {}, {}, 1, None))
    leftovers, records = folder.check_leftovers(project)
    assert leftovers.found == "1 half-finished pieces of work of killed runs"
    assert records.found == f"1 wait, of {run.run_id}"
    assert "mergeline sync" in records.advice


def test_the_tracking_database(tmp_path, migrated_store):
    path = tmp_path / "mlflow.db"
    revisions = services.known_revisions()
    assert services.check_database(path, revisions).found.endswith("(made by the first run)")
    shutil.copy(migrated_store, path)
    assert services.check_database(path, revisions) == ok("MLflow", f"{path}, 0 runs")
    with closing(sqlite3.connect(path)) as database:
        (newest,) = database.execute("select version_num from alembic_version").fetchone()
    assert newest == revisions[0]
    older = services.check_database(path, ("later", {newest, "later"}))
    assert "mlflow db upgrade" in older.advice
    assert "newer MLflow" in services.check_database(path, ("other", {"other"})).found
    path.write_bytes(b"not a database, but long enough to be looked at" * 9)
    assert "cannot be read: file is not a database" in services.check_database(path, revisions).found


def test_a_folder_as_tracking_store_is_refused(tmp_path):
    assert services.check_tracking(str(tmp_path / "mlruns")).state == "problem"
    assert services.check_tracking(f"file://{tmp_path}").state == "problem"
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").touch()
    assert services.look_at_mlflow(Project(tmp_path))[1].name == "MLflow folder"


def test_servers_that_do_not_answer():
    nowhere = f"http://127.0.0.1:{servers.any_free_port()}"
    assert services.check_tracking(nowhere).state == "problem"
    assert "mergeline sync" in services.check_tracking(nowhere).advice
    assert services.look_at_prefect(f"{nowhere}/api").state == "problem"
    assert services.look_at_prefect(None).state == "ok"


def test_versions_of_client_and_server():
    assert services.check_prefect_version("u", "3.8.8", "3.8.8").state == "ok"
    check = services.check_prefect_version("u", "3.7.0", "3.8.8")
    assert (check.state, check.advice.endswith("`pip install prefect==3.8.8` there.")) == ("warning", True)


@pytest.mark.slow
def test_a_prefect_server_that_answers(prefect_server):
    assert services.look_at_prefect(prefect_server).found.startswith(f"server {prefect_server}, version 3.")


def test_what_hangs_or_fails_is_told_and_the_rest_goes_on():
    never = threading.Event()

    def hang() -> list[Check]:
        never.wait()
        return []

    def fail() -> list[Check]:
        raise OSError("no such thing")

    fine = ok("three", "fine")
    looks = [
        Examination("one", hang, limit_s=0.05),
        Examination("two", fail),
        Examination("three", lambda: [fine]),
    ]
    one, two, three = examine(looks)
    never.set()
    assert (one.name, one.state) == ("one", "problem")
    assert "no answer within 0 s" in one.found
    assert "OSError: no such thing" in two.found
    assert three == fine


def doctor(root: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    names = ("PREFECT_", "MLFLOW_", "CUDA_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    environment = {**kept, "PREFECT_PROFILES_PATH": os.devnull, **changes}
    command = [sys.executable, "-m", "flows.cli", "doctor", *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_project_that_is_ready(tiny_project):
    root = tiny_project()
    done = doctor(root, "--json")
    assert done.returncode == 0, done.stdout
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert {name for name, check in checks.items() if check["state"] != "ok"} <= {"ports", "disk", "computer"}
    assert checks["data"]["found"] == "up to date"
    assert checks["DVC remote"]["state"] == "ok"
    assert all(check["advice"] for check in checks.values() if check["state"] != "ok")


@pytest.mark.slow
def test_a_project_that_is_not(tiny_project):
    root = tiny_project()
    (root / "dvc.yaml").unlink()
    nowhere = f"http://127.0.0.1:{servers.any_free_port()}"
    done = doctor(root, MLFLOW_TRACKING_URI=nowhere, PREFECT_API_URL=f"{nowhere}/api")
    assert done.returncode == 1
    assert "3 to mend." in done.stdout
