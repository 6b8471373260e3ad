"""Data versions: brings the data stages of `dvc.yaml` up to date and reads their content hashes.

The only module that talks to DVC, by its command line: its Python interface is not promised to stay.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from merge_lib.errors import DataError
from tasks.project import Project

UP_TO_DATE = "data.json"  # in the project's state: file times and sizes at the last success


@dataclass(frozen=True)
class DataVersion:
    """The state of the data that a run uses."""

    hashes: dict[str, str]  # snapshot (the file's name without suffix) -> DVC's content hash
    is_pushed: bool  # whether the configured remote has it


def version_of(project: Project, needed: Sequence[str]) -> DataVersion:
    """The data, brought up to date, which has all these snapshots.

    Raises:
        DataError: a stage failed, or no stage makes one of them.
    """
    version = bring_up_to_date(project)
    if missing := [name for name in needed if name not in version.hashes]:
        raise DataError(
            f"The study needs the data snapshots {', '.join(missing)}, which no stage of dvc.yaml makes. "
            f"It makes: {', '.join(sorted(version.hashes))}. Name one of these, or describe yours under `tasks`, "
            "`drawn` or `hub` in params.yaml (data/README.md)."
        )
    return version


def bring_up_to_date(project: Project) -> DataVersion:
    """Run what is out of date of the data stages; return the hashes of what they made.

    A project whose data files, parameters and stages have the times and sizes of the last success is not
    looked at again: DVC, too, trusts a file that has not been touched.

    Raises:
        DataError: a stage failed or DVC cannot work here.
    """
    _require_stages(project)
    if (remembered := _unchanged(project)) is not None:
        return DataVersion(_hashes(project), is_pushed=remembered["pushed"])
    _prepare_repository(project)
    _dvc(project, "--wait-for-lock", "repro")
    _remember(project, pushed=False)
    return DataVersion(_hashes(project), is_pushed=False)


def push(project: Project) -> None:
    """Bring the configured DVC remote up to date.

    Raises:
        DataError: the remote did not take it.
    """
    _dvc(project, "--wait-for-lock", "push")
    _remember(project, pushed=True)


def ask_remote(project: Project) -> None:
    """Compare the data with the configured remote, which must answer for that.

    Raises:
        DataError: it does not.
    """
    _dvc(project, "--wait-for-lock", "status", "--cloud", "--json")


def recorded_hashes(project: Project) -> dict[str, str] | None:
    """The hashes in `dvc.lock` if the data is known to be up to date, else None; changes nothing."""
    return _hashes(project) if _unchanged(project) is not None else None


def _require_stages(project: Project) -> None:
    if not (project.root / "dvc.yaml").is_file():
        raise DataError(
            f"'{project.root}' has no dvc.yaml, so its data has no version. Expected one with a stage for each "
            "snapshot under `data/`; copy the one that comes with Mergeline and change its commands."
        )


def _prepare_repository(project: Project) -> None:
    """Make DVC at home here: in a git checkout as it is, in a plain folder without git."""
    in_git = any((folder / ".git").exists() for folder in (project.root, *project.root.parents))
    config = project.root / ".dvc"
    if not config.is_dir():
        _dvc(project, "init", "--quiet", *(() if in_git else ("--no-scm",)))
        _dvc(project, "config", "core.analytics", "false")
    local = config / "config.local"
    if not in_git and "no_scm" not in (local.read_text(encoding="utf-8") if local.is_file() else ""):
        _dvc(project, "config", "--local", "core.no_scm", "true")
    if not _dvc(project, "remote", "list").strip():
        _dvc(project, "remote", "add", "--default", "local", str(project.state / "dvc-remote"))


def _dvc(project: Project, *arguments: str) -> str:
    folder = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "DVC_NO_ANALYTICS": "1",
        "PATH": os.pathsep.join((folder, os.environ.get("PATH", ""))),
    }
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=project.root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise DataError(
            f"`dvc {' '.join(arguments)}` failed in '{project.root}': {_reason(done.stderr + done.stdout)} "
            "Mend what it names and run again; stages that were finished stay finished."
        )
    return done.stdout


def _reason(said: str) -> str:
    """DVC's lines about errors, or the end of what it said."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return " · ".join(errors or lines[-5:])[-1200:]


def _hashes(project: Project) -> dict[str, str]:
    lock = _read_yaml(project.root / "dvc.lock")
    return {
        Path(out["path"]).stem: out["md5"]
        for stage in lock.get("stages", {}).values()
        for out in stage.get("outs", ())
    }


def _fingerprint(project: Project) -> dict[str, list[int]] | None:
    """Time, size and inode of every file that decides the data's state; None if one is missing."""
    lock = _read_yaml(project.root / "dvc.lock")
    named = {
        entry["path"]
        for stage in lock.get("stages", {}).values()
        for entry in (*stage.get("deps", ()), *stage.get("outs", ()))
    }
    files = _files(project.root, sorted({*named, "dvc.yaml", "dvc.lock", "params.yaml"}))
    try:
        stats = {str(path.relative_to(project.root)): path.stat() for path in files}
    except OSError:
        return None
    stamp = {name: [stat.st_mtime_ns, stat.st_size, stat.st_ino] for name, stat in stats.items()}
    remote = _text(project.root / ".dvc" / "config") + _text(project.root / ".dvc" / "config.local")
    return {**stamp, "remote": [int(hashlib.sha256(remote.encode()).hexdigest()[:12], 16)]}


def _files(root: Path, names: Iterable[str]) -> list[Path]:
    """The files named, those of named folders among them."""
    found: list[Path] = []
    for name in names:
        path = root / name
        found.extend(sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path])
    return found


def _unchanged(project: Project) -> dict[str, Any] | None:
    """What is remembered of the last success, if no file was touched since."""
    try:
        remembered = json.loads((project.state / UP_TO_DATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    now = _fingerprint(project)
    return remembered if now is not None and remembered.get("files") == now else None


def _remember(project: Project, *, pushed: bool) -> None:
    memory = project.state / UP_TO_DATE
    memory.parent.mkdir(parents=True, exist_ok=True)
    memory.write_text(json.dumps({"files": _fingerprint(project), "pushed": pushed}), encoding="utf-8")


def _read_yaml(path: Path) -> Mapping[str, Any]:
    try:
        return YAML(typ="safe").load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        return {}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
