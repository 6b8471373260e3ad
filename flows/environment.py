"""The environment that the servers and libraries start in; set before any of them is imported."""

import os
import tomllib
from pathlib import Path

from tasks.project import Project

QUIET = {
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "merge_lib,tasks,flows",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "DVC_NO_ANALYTICS": "1",
}
PROJECT, OWNER = (
    "MERGELINE_PROJECT",
    "MERGELINE_OWNER",
)  # inherited by the servers, so that they can be told apart


def prepare(project: Project, *, is_verbose: bool = False) -> None:
    """Set what is not set yet: no telemetry, the project's own Prefect database, quiet logs unless asked for."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO" if is_verbose else "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_SERVER_LEVEL", "WARNING" if is_verbose else "CRITICAL")
    os.environ[PROJECT], os.environ[OWNER] = str(project.root), own_name()
    if not uses_prefect_server():
        home = project.state / "prefect"
        home.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("PREFECT_HOME", str(home))
        database = f"sqlite+aiosqlite:///{home / 'prefect.db'}"
        os.environ.setdefault("PREFECT_SERVER_DATABASE_CONNECTION_URL", database)


def own_name() -> str:
    """This process as `<pid>:<start>`; the pid alone may be given to another process later."""
    import psutil

    return f"{os.getpid()}:{psutil.Process().create_time():.2f}"


def uses_prefect_server() -> bool:
    """Whether the user has pointed Prefect at a server, by the environment or in a profile."""
    return prefect_api_url() is not None


def prefect_api_url() -> str | None:
    """The server that the user has pointed Prefect at: PREFECT_API_URL, else the one of the active profile."""
    if url := os.environ.get("PREFECT_API_URL"):
        return url
    home = Path(os.environ.get("PREFECT_HOME", Path.home() / ".prefect"))
    path = Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml"))
    try:
        profiles = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError):
        return None
    active = os.environ.get("PREFECT_PROFILE") or profiles.get("active", "")
    return profiles.get("profiles", {}).get(active, {}).get("PREFECT_API_URL")
