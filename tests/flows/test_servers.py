"""Servers of a project: real processes, real ports; nothing is left behind, whatever ends first."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from flows import guard, servers
from flows.environment import OWNER, PROJECT, own_name
from flows.servers import Server, ServerError
from tasks.project import Project

PATIENCE_S = 120.0

# stands for a server: starts a process of its own, tells both, goes on for ever
FAMILY = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""


def until(holds: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)  # between two looks, not a guess of how long it takes


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def of_project(root: Path) -> list[int]:
    """Processes that were started for a project, this one excepted."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(PROJECT) == str(root) and process.pid != os.getpid():
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return [pid for pid in found if not is_gone(pid)]


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which something else listens."""
    with socket.socket() as other:
        other.bind((servers.HOST, servers.any_free_port()))
        other.listen()
        yield other.getsockname()[1]


def guarded(code: str, *, patience_s: float = guard.PATIENCE_S) -> subprocess.Popen[str]:
    folder = str(Path(guard.__file__).parent)
    start = f"import sys; sys.path.insert(0, {folder!r}); import guard; guard.PATIENCE_S = {patience_s}; "
    start += "sys.exit(guard.main([sys.executable, '-c', sys.argv[1]]))"
    command = [sys.executable, "-c", start, code]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_guard_ends_the_server_and_its_children_when_its_input_closes():
    process = guarded(FAMILY)
    family = [int(pid) for pid in process.stdout.readline().split()]
    assert not any(map(is_gone, family))
    process.communicate(timeout=PATIENCE_S)
    assert all(map(is_gone, family))
    assert process.returncode == 0


def test_a_guard_ends_a_server_that_does_not_listen():
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" + FAMILY
    process = guarded(stubborn, patience_s=0.2)
    family = [int(pid) for pid in process.stdout.readline().split()]
    process.communicate(timeout=PATIENCE_S)
    assert all(map(is_gone, family))


def test_a_guard_hands_on_the_exit_status():
    process = guarded("raise SystemExit(7)")
    assert process.wait(PATIENCE_S) == 7
    process.communicate()


def test_a_server_ends_when_its_owner_is_killed(tmp_path):
    told = tmp_path / "pids"
    owner = f"""
import time
from pathlib import Path
from flows.servers import Server
from tasks.project import Project
code = {FAMILY.replace("print(", f"print(file=open({str(told)!r}, 'w'), *(").replace("flush=True)", "))")!r}
server = Server.start(Project(Path({str(tmp_path)!r})), "Prefect", 1, ["-c", code], {{}})
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", owner])
    until(lambda: told.exists() and len(told.read_text().split()) == 2)
    family = [int(pid) for pid in told.read_text().split()]
    process.send_signal(signal.SIGKILL)
    process.wait()
    until(lambda: all(map(is_gone, family)))


def test_a_taken_port_gives_way_to_the_next_free_one(taken):
    assert not servers.is_free(taken)
    found = servers.free_port(taken)
    assert found > taken
    assert servers.is_free(found)
    assert servers.free_port(found, avoid=(found,)) > found


def test_a_server_that_ends_is_told_with_the_end_of_its_log(tmp_path):
    code = "import sys; print('the cause'); sys.exit(3)"
    server = Server.start(Project(tmp_path), "MLflow", servers.any_free_port(), ["-c", code], {})
    with pytest.raises(
        ServerError, match=r"MLflow at http://127.0.0.1:\d+ ended instead of answering"
    ) as told:
        server.wait()
    assert told.value.__notes__ == ["the cause"]
    assert "mlflow-" in str(told.value)
    server.stop()


def test_a_server_that_keeps_silent_is_told_and_stopped(tmp_path):
    code = "import time; time.sleep(600)"
    server = Server.start(Project(tmp_path), "Prefect", servers.any_free_port(), ["-c", code], {})
    with pytest.raises(ServerError, match="did not answer within 0 s"):
        server.wait(limit_s=0.2)
    server.stop()
    assert not server.is_running
    assert not server.log.exists()  # it was empty


def test_only_servers_of_this_project_without_an_owner_are_orphans(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    project = Project(tmp_path)
    cases = {
        "orphan": {PROJECT: str(tmp_path), OWNER: f"{dead.pid}:1.0"},
        "reused": {PROJECT: str(tmp_path), OWNER: f"{os.getpid()}:1.0"},
        "owned": {PROJECT: str(tmp_path), OWNER: own_name()},
        "elsewhere": {PROJECT: str(tmp_path / "other"), OWNER: f"{dead.pid}:1.0"},
    }
    sleep = [
        sys.executable,
        "-c",
        "print(flush=True); import time; time.sleep(600)",
        "prefect.server.api.server",
    ]
    started = {
        name: subprocess.Popen(sleep, env={**os.environ, **changes}, stdout=subprocess.PIPE)
        for name, changes in cases.items()
    }
    try:
        for process in started.values():
            process.stdout.readline()  # its environment is the new one
        expected = {started["orphan"].pid, started["reused"].pid}
        assert set(servers.orphans(project)) == expected
        assert set(servers.stop_orphans(project)) == expected
        assert {name for name, process in started.items() if process.poll() is None} == {"owned", "elsewhere"}
        assert servers.stop_orphans(project) == []
    finally:
        for process in started.values():
            process.kill()
            process.communicate()


def user_environment(**changes: str) -> dict[str, str]:
    """What a user has: no server of Prefect or MLflow named, no profile."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "MLFLOW_", "MERGELINE_"))
    }
    return {**kept, "PREFECT_PROFILES_PATH": os.devnull, **changes}


def start_ui(root: Path, *arguments: str, **changes: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flows.cli", "ui", "--no-browser", *arguments]
    environment = user_environment(**changes)
    (root / "told").touch()
    with (root / "told").open("w") as told:
        return subprocess.Popen(command, cwd=root, env=environment, stdout=told, stderr=subprocess.STDOUT)


def told_addresses(process: subprocess.Popen[str], root: Path) -> dict[str, str]:
    """The addresses, once they are printed."""

    def lines() -> list[str]:
        return (root / "told").read_text().splitlines()

    until(lambda: process.poll() is not None or any("Ctrl-C" in line for line in lines()), 240)
    assert process.poll() is None, "\n".join(lines())
    pairs = (line.split() for line in lines())
    return {pair[0].rstrip(":"): pair[1] for pair in pairs if len(pair) == 2}


@pytest.fixture
def project(tmp_path, migrated_store) -> Project:
    project = Project(tmp_path)
    (tmp_path / "studies").mkdir()
    project.state.mkdir()
    (project.state / "mlflow.db").write_bytes(migrated_store.read_bytes())
    return project


@pytest.mark.slow
def test_both_pages_answer_on_free_ports_and_ctrl_c_leaves_nothing(project, taken):
    process = start_ui(
        project.root, "--mlflow-port", str(taken), "--prefect-port", str(servers.any_free_port())
    )
    try:
        pages = told_addresses(process, project.root)
        assert f"Port {taken} is taken, so MLflow gets" in (project.root / "told").read_text()
        assert pages["MLflow"] != f"http://127.0.0.1:{taken}"
        assert servers.ask_mlflow(pages["MLflow"])["experiments"][0]["name"] == "Default"
        assert servers.ask_prefect(pages["Prefect"]) == 0
        assert len(of_project(project.root)) >= 4
    finally:
        process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert "Stopped." in (project.root / "told").read_text()
    assert of_project(project.root) == []


@pytest.mark.slow
def test_a_server_of_the_user_is_shown_and_a_killed_command_takes_its_own_with_it(project, prefect_server):
    process = start_ui(
        project.root, "--mlflow-port", str(servers.any_free_port()), PREFECT_API_URL=prefect_server
    )
    try:
        pages = told_addresses(process, project.root)
        assert pages["Prefect"] == prefect_server.removesuffix("/api")
        servers.ask_mlflow(pages["MLflow"])
    finally:
        process.send_signal(signal.SIGKILL)
    process.wait()
    until(lambda: of_project(project.root) == [])
    servers.ask_prefect(pages["Prefect"])


def test_a_server_of_the_user_that_is_down_is_told_at_once(project):
    url = f"http://127.0.0.1:{servers.any_free_port()}/api"
    process = start_ui(project.root, PREFECT_API_URL=url)
    assert process.wait(60) == 1
    said = " ".join((project.root / "told").read_text().split())
    assert f"PREFECT_API_URL names the Prefect server {url}, which does not answer" in said
    assert "unset PREFECT_API_URL" in said
    assert of_project(project.root) == []


@pytest.mark.slow
def test_a_killed_run_takes_its_prefect_server_with_it(tiny_project):
    root = tiny_project()
    command = [sys.executable, "-m", "flows.cli", "run", "studies/digits.yaml"]
    process = subprocess.Popen(command, cwd=root, env=user_environment(), stderr=subprocess.PIPE)

    def has_server() -> bool:
        assert process.poll() is None, process.stderr.read()
        words = (psutil.Process(pid).cmdline() for pid in of_project(root) if psutil.pid_exists(pid))
        return any({"uvicorn", "prefect.server.api.server:create_app"} <= set(line) for line in words)

    until(has_server)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    until(lambda: of_project(root) == [])
