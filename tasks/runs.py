"""A run of a study: its folder, what was asked, and how far it came."""

import json
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import Any

from merge_lib.errors import SpecError
from tasks.payloads import Outbox
from tasks.progress import StoppedError
from tasks.project import Project

LIBRARIES = ("torch", "prefect", "mlflow", "dvc", "numpy", "safetensors")

_begun: list[str] = []  # runs and sweeps of this process, the oldest first


@dataclass(frozen=True)
class Run:
    """One run, as `run.json` keeps it."""

    run_id: str
    study: str
    config: dict[str, Any]  # validated
    command: str
    git_revision: str
    started_at: str  # ISO 8601, UTC
    status: str = "running"  # running, finished, failed, stopped
    data: dict[str, str] | None = None
    unchanged_since: str | None = None  # an earlier run with the very same results
    results_digest: str = ""
    elapsed_s: float = 0.0
    timings: dict[str, float] = field(
        default_factory=dict
    )  # seconds of its parts; those of steps may overlap
    missing: dict[str, str] = field(default_factory=dict)  # row that could not be finished -> why


def start_run(project: Project, study: str, config: dict[str, Any], command: str) -> Run:
    """Make the folder of a new run."""
    now = datetime.now(UTC)
    stem = f"{study}-{now:%Y%m%d-%H%M%S}"
    names = (stem, *(f"{stem}-{n}" for n in range(2, 100)))
    run_id = next(name for name in names if not (project.runs / name).exists())
    run = Run(run_id, study, config, command, git_revision(project.root), now.isoformat(timespec="seconds"))
    save_run(project, run)
    note_begun(run_id)
    return run


def note_begun(name: str) -> None:
    """Remember that this process began a run or a sweep of that name."""
    _begun.append(name)


def begun_here() -> tuple[str, ...]:
    """The runs and sweeps that this process began, the oldest first; others may go on in the same project."""
    return tuple(_begun)


def keeping(command: str) -> str:
    """The command that runs the same study and writes its merges, too; all other work of it is finished."""
    asked = command.replace(" --set 'keep_merged=false'", "")
    return f"{asked} --set keep_merged=true"


def save_run(project: Project, run: Run, **changes: Any) -> Run:
    """Write `run.json` anew, with the changes; returns the changed run."""
    run = replace(run, **changes)
    folder = project.runs / run.run_id
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / "run.json.partial"
        partial.write_text(json.dumps(asdict(run), indent=1, sort_keys=True), encoding="utf-8")
        partial.replace(folder / "run.json")
    except OSError as refused:
        raise SpecError(
            f"The run's folder '{folder}' cannot be written: {refused}. Runs are kept in the project; "
            "make the folder writable or free some space, and run again."
        ) from refused
    return run


@contextmanager
def status_kept(project: Project, run: Run) -> Iterator[None]:
    """What ends the work inside early is told in the run's record."""
    try:
        yield
    except (KeyboardInterrupt, StoppedError):
        save_run(project, run, status="stopped")
        raise
    except Exception:
        save_run(project, run, status="failed")
        raise


def load_run(project: Project, run_id: str) -> Run:
    """The run of that name; `latest` is the one that started last."""
    known = list_runs(project)
    if run_id == "latest" and known:
        run_id = known[-1]
    path = project.runs / run_id / "run.json"
    try:
        return Run(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as missing:
        near = get_close_matches(run_id, known, n=1, cutoff=0.3)
        hint = f"Did you mean '{near[0]}'? " if near else ""
        raise SpecError(
            f"There is no run '{run_id}' in '{project.runs}'. {hint}Known: {', '.join(known[-5:]) or 'none yet'}."
        ) from missing


def list_runs(project: Project) -> list[str]:
    """Names of all runs, the oldest first."""
    started = {}
    for path in project.runs.glob("*/run.json"):
        try:
            started[path.parent.name] = json.loads(path.read_text(encoding="utf-8"))["started_at"]
        except (OSError, ValueError, KeyError):
            continue
    return sorted(started, key=lambda name: (started[name], name))


def outbox_of(project: Project, run_id: str) -> Outbox:
    """What MLflow is still to be told of a run."""
    return Outbox(project.runs / run_id / "tracking")


def environment(threads: int) -> dict[str, str]:
    """What the numbers were made with."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "threads": str(threads),
    }


def git_revision(root: Path) -> str:
    """The commit that the project is at, `+` after it if files differ from it; empty outside git."""
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()
