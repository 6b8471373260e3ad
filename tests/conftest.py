"""Runs before anything of the package is imported: shapes and types are checked at run time during tests."""

import inspect
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors; several threads on busy cores only wait
os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])  # child processes, too, run the sources under test

import beartype
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

_checker = ModuleType("checker_for_tests")
_checker.check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))  # density=1 is a float
sys.modules[_checker.__name__] = _checker

install_import_hook(
    [
        "merge_lib.methods",
        "merge_lib.mergekit.methods",
        "merge_lib.continual",
        "merge_lib.landscape.measuring",
        "merge_lib.ops",
        "merge_lib.workloads",
    ],
    "checker_for_tests.check",
)

settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=60, database=None)
settings.load_profile("repeatable")

ROOT = Path(__file__).parents[1]
STARTUP_TIMEOUT_S = 240  # a slow machine needs a quarter of it

TINY_PARAMS = """
glyphs: {count: 186, size: 8, seed: 0, validation: 0.1}
split: {seed: 0, validation: 0.1, test: 0.4}
tasks:
  digits-01: {raw: data/raw/digits.csv.gz, classes: ["0", "1"]}
  digits-23: {raw: data/raw/digits.csv.gz, classes: ["2", "3"]}
"""

TINY_STAGES = """
stages:
  glyphs:
    cmd: python -m merge_lib.workloads.vision.prepare glyphs
    params: [glyphs]
    outs: [data/pretraining/glyphs.safetensors]
  task:
    foreach: ${tasks}
    do:
      cmd: python -m merge_lib.workloads.vision.prepare task ${key}
      deps: ["${item.raw}"]
      params: [split, "tasks.${key}"]
      outs: ["data/tasks/${key}.safetensors"]
"""

TINY_STUDY = """
study: digits
workload:
  name: vision
  scenario: class-incremental
  model: {image_size: 8, patch_size: 4, width: 32, depth: 2, heads: 2, mlp_ratio: 2}
  pretraining: {epochs: 1, batch_size: 64}
  fine_tuning: {epochs: 1, batch_size: 64}
tasks: [digits-01, digits-23]
seeds: [0]
regimes: [sequential, parallel]
methods: [average, task_arithmetic]
references: [joint]
"""


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory) -> None:
    """What tests remember of files is not the user's business."""
    os.environ["MERGELINE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def prepared_project(tmp_path_factory) -> Path:
    """A project with a tiny study, its data made and pushed; not to be changed, see `tiny_project`."""
    from tasks import versioning
    from tasks.project import Project

    root = tmp_path_factory.mktemp("prepared") / "project"
    for folder in ("studies", "data/raw", ".dvc"):
        (root / folder).mkdir(parents=True)
    for name in ("data/raw/digits.csv.gz", ".dvc/config", ".dvcignore"):
        shutil.copy2(ROOT / name, root / name)
    (root / "params.yaml").write_text(TINY_PARAMS)
    (root / "dvc.yaml").write_text(TINY_STAGES)
    (root / "studies" / "digits.yaml").write_text(TINY_STUDY)
    versioning.bring_up_to_date(Project(root))
    versioning.push(Project(root))
    return root


@pytest.fixture
def tiny_project(prepared_project, tmp_path) -> Callable[..., Path]:
    """Makes project folders: `studies/digits.yaml` has 2 tasks, 1 seed, 2 methods; the data is up to date."""
    from tasks import versioning
    from tasks.project import Project

    def make(name: str = "project") -> Path:
        root = tmp_path / name
        shutil.copytree(prepared_project, root)
        versioning._remember(Project(root), pushed=True)  # the copies have inodes of their own
        return root

    return make


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory) -> Path:
    """An MLflow database with all its tables: making one takes seconds, a copy does not."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory) -> Iterator[str]:
    """The API's URL of a Prefect server of the tests' own, started once; flows in this process use it, too.

    No clock starts a run there: a test asks for the runs of a schedule itself.
    """
    home = tmp_path_factory.mktemp("prefect")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
        "DO_NOT_TRACK": "true",
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / 'prefect.db'}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    command = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--no-ui",
        "--no-scheduler",
        "--host",
        "127.0.0.1",
    ]
    url = f"http://127.0.0.1:{port}/api"
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--port", str(port)], cwd=home, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        _wait_for_server(server, url, home / "server.log")
        from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

        with temporary_settings({PREFECT_API_URL: url, PREFECT_HOME: home}):
            yield url
            _send_what_waits()
    finally:
        server.terminate()
        server.wait(60)


def _send_what_waits() -> None:
    """Logs and events of this process, which would be tried again for minutes once the server is gone."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker
    from prefect.utilities.asyncutils import run_coro_as_sync

    async def drain() -> None:
        for ended in (APILogWorker.drain_all(), EventsWorker.drain_all()):
            if inspect.isawaitable(ended):
                await ended

    run_coro_as_sync(drain())


def _wait_for_server(server: subprocess.Popen, url: str, log: Path) -> None:
    deadline = time.monotonic() + STARTUP_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            assert server.poll() is None, f"the server ended:\n{log.read_text()[-4000:]}"
            time.sleep(0.2)  # between two questions, not a guess of how long it takes
    pytest.fail(f"no Prefect server after {STARTUP_TIMEOUT_S} s:\n{log.read_text()[-4000:]}")
