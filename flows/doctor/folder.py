"""The project's folder: what is in it, whether it can be written, what earlier runs left there."""

import configparser
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from flows.doctor import Check, ok, problem, warning
from merge_lib.errors import DataError
from tasks.project import Project
from tasks.records import RecordStore
from tasks.runs import git_revision, list_runs, outbox_of

FUTURE_S = 300.0  # more than clocks of one network differ


def check_writable(project: Project) -> Check:
    """Whether a file can be made in the project's state."""
    place = project.state if project.state.is_dir() else project.root
    try:
        with tempfile.NamedTemporaryFile(dir=place):
            return ok("project", str(project.root))
    except OSError as refused:
        advice = "Make the folder writable, or copy the project to where you may write."
        return problem("project", f"'{place}' cannot be written: {refused.strerror}", advice)


def check_git(project: Project) -> Check:
    """A git checkout, or a plain folder."""
    revision = git_revision(project.root)
    if not revision:
        return ok("git", "plain folder; runs name no revision, everything else works")
    changed = revision.endswith("+")
    return ok("git", f"commit {revision.rstrip('+')}{', with changes' if changed else ''}")


def check_clock(now: float, on_disk: float, newest_record: float) -> Check:
    """Whether this machine's clock agrees with the disk's, and with the records."""
    if newest_record > now + FUTURE_S:
        found = f"the newest record is from {newest_record - now:.0f} s in the future"
        return problem("clock", found, "Set the clock: runs and records are ordered by it.")
    if abs(on_disk - now) > FUTURE_S:
        found = f"the disk's clock differs by {on_disk - now:+.0f} s"
        return warning("clock", found, "Let this machine and the file server use the same time server.")
    return ok("clock", time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(now)))


def look_at_clock(project: Project) -> Check:
    """Compare with a file written now, and with the newest record."""
    place = project.state if project.state.is_dir() else project.root
    records = [path.stat().st_mtime for path in project.store.glob("*/[!.]*/record.json")]
    with tempfile.NamedTemporaryFile(dir=place) as file:
        on_disk = Path(file.name).stat().st_mtime
    return check_clock(time.time(), on_disk, max(records, default=0.0))


def check_remote(remotes: Mapping[str, str], root: Path, ask: Callable[[], None]) -> Check:
    """Where data is pushed to, and whether it can be; `ask` raises if a remote that is no folder does not answer."""
    if not remotes:
        return ok("DVC remote", "none yet; the first run adds a folder in the project")
    name, url = next(iter(remotes.items()))
    if "://" in url:
        try:
            ask()
        except DataError as refused:
            advice = "Mend its address or its credentials; runs go on, and the next one pushes again."
            return problem("DVC remote", f"{name}: {url} does not answer: {refused}", advice)
        return ok("DVC remote", f"{name}: {url}")
    place = (root / ".dvc" / url).resolve()
    nearest = next(folder for folder in (place, *place.parents) if folder.exists())
    if os.access(nearest, os.W_OK):
        return ok("DVC remote", f"{name}: {place}")
    advice = "Make it writable, or name another: `dvc remote modify NAME url …`."
    return problem("DVC remote", f"{name}: '{nearest}' cannot be written", advice)


def remotes_of(root: Path) -> dict[str, str]:
    """The configured DVC remotes, the default one first."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read([root / ".dvc" / "config", root / ".dvc" / "config.local"], encoding="utf-8")
    named = {
        section.strip("'\"").removeprefix('remote "').rstrip('"'): parser[section].get("url", "")
        for section in parser.sections()
        if section.strip("'").startswith("remote ")
    }
    default = parser.get("core", "remote", fallback="")
    return dict(sorted(named.items(), key=lambda item: item[0] != default))


def check_data(*, has_stages: bool, is_known: bool) -> Check:
    """Whether the data's content hashes are known to be right."""
    if not has_stages:
        advice = "Copy the dvc.yaml that comes with Mergeline, and change its commands."
        return problem("data", "there is no dvc.yaml, so the data has no version", advice)
    if not is_known:
        return ok("data", "not made yet, or changed since; the next run brings it up to date")
    return ok("data", "up to date")


def check_leftovers(project: Project) -> list[Check]:
    """What killed runs left half done, and what MLflow has still to be told."""
    checks = []
    leftovers = RecordStore(project.store).leftovers()
    if leftovers:
        found = f"{len(leftovers)} half-finished pieces of work of killed runs"
        checks.append(warning("leftovers", found, "The next run removes them; they are never used."))
    else:
        checks.append(ok("leftovers", "none"))
    if saves := list(project.partial.glob("*")):
        found = f"saves of {len(saves)} trainings that are under way, or were stopped"
        advice = f"`mergeline run --resume` goes on from them; what no run will go on with may go: {project.partial}"
        checks.append(warning("trainings", found, advice))
    waiting = {name: count for name in list_runs(project) if (count := _waiting(project, name))}
    if waiting:
        found = f"{sum(waiting.values())} wait, of {', '.join(waiting)}"
        advice = "Once MLflow answers, deliver them: `mergeline sync`."
        checks.append(warning("records", found, advice))
    else:
        checks.append(ok("records", f"{len(list_runs(project))} runs, all delivered to MLflow"))
    return checks


def _waiting(project: Project, run_id: str) -> int:
    return sum(1 for _ in outbox_of(project, run_id).waiting())


def look_at_data(project: Project) -> list[Check]:
    """DVC's repository, remote and data."""
    from tasks.versioning import ask_remote, recorded_hashes

    has_stages = (project.root / "dvc.yaml").is_file()
    is_known = recorded_hashes(project) is not None
    is_ready = (project.root / ".dvc").is_dir()
    repository = ok("DVC", "initialised" if is_ready else "not initialised yet; the first run does it")
    remote = check_remote(remotes_of(project.root), project.root, lambda: ask_remote(project))
    data = check_data(has_stages=has_stages, is_known=is_known)
    return [repository, remote, data]
