"""The project's own MLflow and Prefect servers: started under a guard, asked until they answer, stopped whole."""

import atexit
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from flows import guard
from flows.environment import OWNER, PROJECT, uses_prefect_server
from merge_lib.errors import MergeError
from tasks.project import Project

HOST = "127.0.0.1"
START_LIMIT_S = 180.0  # a busy two-core machine needs 40
SERVERS = ("prefect.server.api.server", "prefect server", "mlflow server", "mlflow.server")


class ServerError(MergeError):
    """A server did not come up, or went down."""


@dataclass(frozen=True)
class Server:
    """A server that this process started."""

    title: str  # MLflow or Prefect
    port: int
    log: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(
        cls, project: Project, title: str, port: int, command: list[str], changes: Mapping[str, str]
    ) -> Self:
        """Start the command under a guard; `changes` are added to the environment."""
        log = project.state / "logs" / f"{title.lower()}-{port}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-I", guard.__file__, sys.executable, "-P", *command],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=project.root,
                env={**os.environ, **changes},
                start_new_session=True,
            )
        return cls(title, port, log, process)

    @property
    def address(self) -> str:
        """Where it answers."""
        return f"http://{HOST}:{self.port}"

    @property
    def is_running(self) -> bool:
        """Whether its process is there."""
        return self.process.poll() is None

    def wait(self, limit_s: float = START_LIMIT_S) -> Self:
        """Wait until a real API call is answered.

        Raises:
            ServerError: the server ended, or did not answer in time.
        """
        deadline = time.monotonic() + limit_s
        while True:
            with suppress(OSError, ValueError):
                ASK[self.title](self.address)
                return self
            if not self.is_running:
                raise self.failure("ended instead of answering")
            if time.monotonic() > deadline:
                raise self.failure(f"did not answer within {limit_s:.0f} s")
            time.sleep(0.1)

    def failure(self, what: str) -> ServerError:
        """What to raise: what happened, and the end of the log."""
        said = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-12:]
        error = ServerError(
            f"{self.title} at {self.address} {what}. Its log '{self.log}' ends below; "
            "`mergeline doctor` looks for the usual causes."
        )
        for line in said or ["(the log is empty)"]:
            error.add_note(line)
        return error

    def stop(self) -> None:
        """End the server and all that it started; returns when they are gone."""
        stop_all([self])


def stop_all(servers: Sequence[Server]) -> None:
    """End the servers side by side; returns when they are gone."""
    for server in servers:
        if server.process.stdin:
            server.process.stdin.close()
    for server in servers:
        try:
            server.process.wait(guard.PATIENCE_S + 4)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()
        if server.log.is_file() and server.log.stat().st_size == 0:
            server.log.unlink()  # it had nothing to say


def start_mlflow(project: Project, port: int) -> Server:
    """MLflow's pages on the project's SQLite file and artifacts; `project.tracking_uri` must be that file."""
    artifacts = project.state / "mlartifacts"
    command = ["-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", project.tracking_uri, "--artifacts-destination", artifacts.as_uri()]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_TRACKING_URI": project.tracking_uri}
    return Server.start(project, "MLflow", port, [*command, *stores], quiet)


def start_prefect(project: Project, port: int) -> Server:
    """Prefect's pages on the database that runs in this project use."""
    command = ["-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    changes = {
        "PREFECT_UI_STATIC_DIRECTORY": str(project.state / "prefect" / "pages"),
        "PREFECT_SERVER_UI_V2_ENABLED": "false",  # those pages ask a server of another company for settings
        "PREFECT_SERVER_UI_API_URL": f"http://{HOST}:{port}/api",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
    }
    return Server.start(project, "Prefect", port, command, changes)


@contextmanager
def prefect_for_run(project: Project) -> Iterator[Callable[[], object]]:
    """A server for the flows of this process alone, without pages; no run shares it, so none can take it away.

    It starts while the caller goes on importing, so enter this before Prefect is imported. With a server of the
    user's, or with Prefect imported already, nothing is started and Prefect finds its server by itself.

    Yields:
        A call that waits until the server answers.
    """
    if uses_prefect_server() or "prefect" in sys.modules:
        yield lambda: None
        return
    server = _start_for_run(project, any_free_port())
    os.environ["PREFECT_API_URL"] = f"{server.address}/api"
    atexit.register(server.stop)  # after Prefect has sent what it still has to say when the process ends
    try:
        yield server.wait
    finally:
        del os.environ["PREFECT_API_URL"]


def _start_for_run(project: Project, port: int) -> Server:
    application = ["--factory", "prefect.server.api.server:create_app"]
    command = ["-m", "uvicorn", *application, "--host", HOST, "--port", str(port), "--log-level", "error"]
    changes = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    return Server.start(project, "Prefect", port, command, changes)


def ask_mlflow(address: str, limit_s: float = 5.0) -> Any:
    """One experiment, by a real API call: a health check answers even where every call is refused."""
    return call(f"{address}/api/2.0/mlflow/experiments/search", {"max_results": 1}, limit_s)


def ask_prefect(address: str, limit_s: float = 5.0) -> Any:
    """The number of flow runs: a call that needs the database."""
    return call(f"{address}/api/flow_runs/count", {}, limit_s)


ASK: dict[str, Callable[[str], Any]] = {"MLflow": ask_mlflow, "Prefect": ask_prefect}


def call(url: str, body: Mapping[str, Any] | None = None, limit_s: float = 5.0) -> Any:
    """The JSON answer to a GET, or to a POST of `body`.

    Raises:
        OSError: no answer in time, or one that says no.
        ValueError: the answer is not JSON.
    """
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"Content-Type": "application/json"})
    opener = build_opener(ProxyHandler({})) if f"//{HOST}:" in url else build_opener()
    try:
        with opener.open(request, timeout=limit_s) as answer:
            return json.loads(answer.read())
    except HTTPError as refused:
        refused.close()
        raise OSError(f"{url} answers {refused.code} {refused.reason}") from refused


def is_free(port: int) -> bool:
    """Whether nothing listens on the port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port(preferred: int, *, avoid: tuple[int, ...] = ()) -> int:
    """The preferred port, or the next one above it that is free."""
    for port in range(preferred, min(preferred + 200, 65536)):
        if port not in avoid and is_free(port):
            return port
    raise ServerError(
        f"No port from {preferred} to {preferred + 199} is free. Name another one with --…-port."
    )


def any_free_port() -> int:
    """A free port below those that outgoing connections get, which could take it before the server does."""
    return free_port(20_000 + os.getpid() % 12_000)


def orphans(project: Project) -> list[int]:
    """Servers of this project whose owner is gone; the guard can only miss them if it was killed itself."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if not any(words in " ".join(process.cmdline()) for words in SERVERS):
                continue
            variables = process.environ()
            if variables.get(PROJECT) == str(project.root) and not _lives(variables.get(OWNER, "")):
                found.append(process.pid)
    return found


def stop_orphans(project: Project) -> list[int]:
    """Terminate the orphans; returns their process ids."""
    import psutil

    processes = []
    for pid in orphans(project):
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            process.terminate()
            processes.append(process)
    for process in psutil.wait_procs(processes, timeout=5)[1]:
        with suppress(psutil.Error):
            process.kill()
    return [process.pid for process in processes]


def _lives(owner: str) -> bool:
    """Whether the process is there that called itself `<pid>:<start>`; a number given anew does not count."""
    import psutil

    try:
        pid, started = owner.split(":")
        return abs(psutil.Process(int(pid)).create_time() - float(started)) < 5
    except (ValueError, psutil.Error):
        return False
