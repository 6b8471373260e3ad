"""Data versions: brings the data stages of `dvc.yaml` up to date and reads their content hashes.

The only module that talks to DVC, by its command line: its Python interface is not promised to stay.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_lib.errors import DataError
from tasks.data_stages import PARAMS, DataStages, check_made
from tasks.file_locks import alone
from tasks.progress import Step, report
from tasks.project import Project

RUNNING = re.compile(r"Running stage '(.+)':")  # how DVC says that a stage begins
UP_TO_DATE = "data.json"  # in the project's state: file times and sizes at each stage's last success


@dataclass(frozen=True)
class DataVersion:
    """The state of the data that a run uses."""

    hashes: dict[str, str]  # snapshot (the file's name without suffix) -> DVC's content hash
    is_pushed: bool  # whether the configured remote has it


def version_of(project: Project, needed: Sequence[str]) -> DataVersion:
    """The data, brought up to date as far as these snapshots need it, which are all there.

    Raises:
        DataError: a stage failed, or no stage makes one of them.
    """
    version = bring_up_to_date(project, needed)
    check_made(needed, version.hashes)
    return version


def check_stages(project: Project, needed: Sequence[str]) -> None:
    """Look at `dvc.yaml` alone.

    Raises:
        DataError: it is not there, or no stage makes one of these snapshots.
    """
    if needed:
        _require_stages(project)
        DataStages.of(project.root).targets(needed)


def bring_up_to_date(project: Project, needed: Sequence[str] | None = None) -> DataVersion:
    """Run what is out of date of the data stages; return the hashes of what they made.

    Stages whose files, parameters and definitions have the times and sizes of their last success are not looked at
    again: DVC, too, trusts a file that has not been touched.

    Args:
        project: whose data.
        needed: the snapshots that matter; only their stages run, and those that these depend on. None: all.

    Raises:
        DataError: a stage failed, no stage makes a needed snapshot, or DVC cannot work here.
    """
    _require_stages(project)
    targets = DataStages.of(project.root).targets(needed)
    if (is_pushed := _unchanged(project, targets)) is None:
        with _alone(project):
            _prepare_repository(project)
            _reproduce(project, targets or ())
            _remember(project, targets, pushed=False)
            is_pushed = _unchanged(project, targets) or False
    return DataVersion(_hashes(project, targets), is_pushed=is_pushed)


def push(project: Project, needed: Sequence[str] | None = None) -> None:
    """Bring the configured DVC remote up to date.

    Args:
        project: whose data, which is up to date.
        needed: the snapshots that matter; None: all.

    Raises:
        DataError: the remote did not take it, or no stage makes a needed snapshot.
    """
    stages = DataStages.of(project.root)
    targets = stages.targets(needed)
    with _alone(project):
        _dvc(project, "--wait-for-lock", "push", *(() if targets is None else stages.with_sources(targets)))
        _remember(project, targets, pushed=True)


def ask_remote(project: Project) -> None:
    """Compare the data with the configured remote, which must answer for that.

    Raises:
        DataError: it does not.
    """
    _dvc(project, "--wait-for-lock", "status", "--cloud", "--json")


def recorded_hashes(project: Project, needed: Sequence[str] | None = None) -> dict[str, str] | None:
    """The hashes in `dvc.lock` if the data is known to be up to date, else None; changes nothing.

    Args:
        project: whose data.
        needed: the snapshots that matter; None: all that were ever made.
    """
    stages = DataStages.of(project.root)
    if needed is not None and any(name not in stages.makers for name in needed):
        return None
    targets = tuple(stages.locked) if needed is None else stages.targets(needed)
    is_known = targets != () and _unchanged(project, targets) is not None
    return _hashes(project, targets) if is_known else None


def stages_done(project: Project, needed: Sequence[str]) -> dict[str, bool]:
    """Each stage that these snapshots come from, and whether it is known to be up to date; changes nothing."""
    stages = DataStages.of(project.root)
    made = [name for name in needed if name in stages.makers]
    if not stages.is_whole or not made:
        return {}
    told = _memory(project).get("stages", {})
    return {
        address: address in told and told[address]["state"] == _state(project, stages, address)
        for address in stages.with_sources(stages.targets(made) or ())
    }


@contextmanager
def _alone(project: Project) -> Iterator[None]:
    """One run at a time: what another one is making, DVC calls busy, and does not wait for."""
    with alone(project.state / "data.lock"):
        yield


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


def _reproduce(project: Project, targets: Sequence[str]) -> None:
    """Run the stages that are out of date, and report each as it begins and ends."""
    arguments = ("--wait-for-lock", "repro", *targets)
    said, running = [], ""
    with _start_dvc(project, arguments, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                said.append(line)
                if (begun := RUNNING.match(line)) is not None:
                    _tell_of_stages(running, begun.group(1))
                    running = begun.group(1)
            _tell_of_stages(running, "")
        except BaseException:
            process.kill()
            raise
    _require_success(project, arguments, process.returncode, "".join(said))


def _tell_of_stages(ended: str, begun: str) -> None:
    if ended:
        report(Step("data", ended, 1.0))
    if begun:
        report(Step("data", begun, 0.0))


def _dvc(project: Project, *arguments: str) -> str:
    """What a call of DVC printed."""
    with _start_dvc(project, arguments, stderr=subprocess.PIPE) as process:
        try:
            printed, complained = process.communicate()
        except BaseException:
            process.kill()
            raise
    _require_success(project, arguments, process.returncode, complained + printed)
    return printed


def _start_dvc(project: Project, arguments: Sequence[str], *, stderr: int) -> subprocess.Popen[str]:
    folder = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "DVC_NO_ANALYTICS": "1",
        "PYTHONUNBUFFERED": "1",  # so that a stage is told when it begins
        "PATH": os.pathsep.join((folder, os.environ.get("PATH", ""))),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=project.root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def _require_success(project: Project, arguments: Sequence[str], status: int, said: str) -> None:
    if status != 0:
        raise DataError(
            f"`dvc {' '.join(arguments)}` failed in '{project.root}': {_reason(said)} "
            "Mend what it names and run again; stages that were finished stay finished."
        )


def _reason(said: str) -> str:
    """DVC's lines about errors, or the end of what it said."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return " · ".join(errors or lines[-5:])[-1200:]


def _hashes(project: Project, targets: tuple[str, ...] | None) -> dict[str, str]:
    stages = DataStages.of(project.root)
    return stages.hashes(None if targets is None else stages.with_sources(targets))


def _unchanged(project: Project, targets: tuple[str, ...] | None) -> bool | None:
    """Whether the stages' outputs were pushed, if no file of theirs was touched since their last success; else None."""
    memory, stages = _memory(project), DataStages.of(project.root)
    if targets is None and memory.get("all") != _stamp(project, ("dvc.yaml", PARAMS)):
        return None
    chosen = stages.locked if targets is None else stages.with_sources(targets)
    known = [memory.get("stages", {}).get(address) for address in chosen]
    for address, remembered in zip(chosen, known, strict=True):
        if remembered is None or remembered["state"] != _state(project, stages, address):
            return None
    return all(remembered["pushed"] for remembered in known)


def _remember(project: Project, targets: tuple[str, ...] | None = None, *, pushed: bool) -> None:
    """Keep what the stages' files are now; what was pushed before and is the same stays pushed."""
    memory, stages = _memory(project), DataStages.of(project.root)
    told = memory.get("stages", {})
    for address in stages.locked if targets is None else stages.with_sources(targets):
        state = _state(project, stages, address)
        if state is None:
            told.pop(address, None)
            continue
        before = told.get(address, {"state": {}, "pushed": False})
        is_same = before["state"].get("made") == state["made"]
        told[address] = {"state": state, "pushed": pushed or (before["pushed"] and is_same)}
    everything = _stamp(project, ("dvc.yaml", PARAMS)) if targets is None else memory.get("all")
    place = project.state / UP_TO_DATE
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps({"stages": told, "all": everything}), encoding="utf-8")


def _memory(project: Project) -> dict[str, Any]:
    try:
        memory = json.loads((project.state / UP_TO_DATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return memory if isinstance(memory, dict) else {}


def _state(project: Project, stages: DataStages, address: str) -> dict[str, Any] | None:
    """The files of a stage, what it made, and for which remote; None if it never ran or a file is missing."""
    if address not in stages.locked:
        return None
    files = _stamp(project, stages.files(address))
    remote = _text(project.root / ".dvc" / "config") + _text(project.root / ".dvc" / "config.local")
    made = json.dumps([stages.locked[address], remote], sort_keys=True)
    return files and {"files": files, "made": hashlib.sha256(made.encode()).hexdigest()}


def _stamp(project: Project, names: Iterable[str]) -> dict[str, list[int]] | None:
    """Time, size and inode of each file, those in named folders among them; None if one is missing."""
    try:
        stats = {str(path.relative_to(project.root)): path.stat() for path in _files(project.root, names)}
    except OSError:
        return None
    return {name: [stat.st_mtime_ns, stat.st_size, stat.st_ino] for name, stat in stats.items()}


def _files(root: Path, names: Iterable[str]) -> list[Path]:
    """The files named, those of named folders among them."""
    found: list[Path] = []
    for name in names:
        path = root / name
        found.extend(sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path])
    return found


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
