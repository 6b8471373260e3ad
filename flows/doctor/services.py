"""MLflow and Prefect: where they are, whether they answer, whether the versions agree."""

import re
import sqlite3
from contextlib import closing
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from flows import servers
from flows.doctor import Check, ok, problem, warning
from tasks.project import Project

PORTS = {"MLflow": 5000, "Prefect": 4200}


def look_at_mlflow(project: Project) -> list[Check]:
    """The tracking store, and a folder that would mislead MLflow's own commands."""
    checks = [check_tracking(project.tracking_uri)]
    if any((project.root / "mlruns").glob("*/meta.yaml")):
        advice = "Move it with `mlflow migrate-filestore`, or remove it; runs of Mergeline are not in it."
        found = "'mlruns' makes plain `mlflow` commands look there, where they fail"
        checks.append(warning("MLflow folder", found, advice))
    return checks


def check_tracking(uri: str) -> Check:
    """Whether the tracking store can be used."""
    if uri.startswith(("http://", "https://")):
        return check_mlflow_server(uri.rstrip("/"))
    if uri.startswith("sqlite:///"):
        return check_database(Path(uri.removeprefix("sqlite:///")), known_revisions())
    if "://" not in uri or uri.startswith("file:"):
        advice = (
            "Unset MLFLOW_TRACKING_URI to use a file of the project's own, or name sqlite:///… or a server."
        )
        return problem("MLflow", f"{uri} is a folder, which MLflow 3 does not take any more", advice)
    return ok("MLflow", f"{uri.split('://', maxsplit=1)[0]} database (asked when a run starts)")


def check_mlflow_server(address: str) -> Check:
    """Whether a real API call is answered; a health check is, even where every call is refused."""
    try:
        servers.ask_mlflow(address)
    except (OSError, ValueError) as refused:
        advice = "Start that server or mend MLFLOW_TRACKING_URI. Runs go on; `mergeline sync` delivers later."
        if "403" in str(refused):
            advice = "Start that server with --allowed-hosts and the name used here."
        return problem("MLflow", f"{address} does not answer: {refused}", advice)
    return ok("MLflow", f"server {address}")


def check_database(path: Path, revisions: tuple[str, set[str]] | None) -> Check:
    """Whether MLflow's SQLite file can be read by the installed version."""
    if not path.exists():
        return ok("MLflow", f"{path} (made by the first run)")
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=2)) as database:
            (found,) = database.execute("select version_num from alembic_version").fetchone()
            (runs,) = database.execute("select count(*) from runs").fetchone()
    except (sqlite3.Error, TypeError) as refused:
        advice = f"Move '{path}' away; the next run makes a new one, and `mergeline report` needs none."
        return problem("MLflow", f"{path} cannot be read: {refused}", advice)
    if revisions is not None and found not in revisions[1]:
        return problem(
            "MLflow", f"{path} was made by a newer MLflow", "Install that version, or move the file away."
        )
    if revisions is not None and found != revisions[0]:
        advice = f"Copy the file, then `mlflow db upgrade sqlite:///{path}`."
        return problem("MLflow", f"{path} was made by an older MLflow", advice)
    return ok("MLflow", f"{path}, {runs} runs")


def known_revisions() -> tuple[str, set[str]] | None:
    """The newest revision of MLflow's tables and all that the installed version knows, without importing it."""
    spec = find_spec("mlflow")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "store" / "db_migrations" / "versions"
    revisions, parents = set(), set()
    for path in folder.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        own = re.search(r"^revision(?:: str)? = [\"'](\w+)", text, re.MULTILINE)
        revisions |= {own.group(1)} if own else set()
        line = re.search(r"^down_revision.*$", text, re.MULTILINE)
        parents |= set(re.findall(r"[\"'](\w+)[\"']", line.group(0))) if line else set()
    heads = revisions - parents
    return (heads.pop(), revisions) if len(heads) == 1 else None


def look_at_prefect(url: str | None) -> Check:
    """The user's server, or the word that each run has its own."""
    if url is None:
        return ok("Prefect", "a server of its own for each run; `mergeline ui` shows what was run")
    try:
        servers.ask_prefect(url.rstrip("/").removesuffix("/api"))
        theirs = servers.call(f"{url.rstrip('/')}/admin/version")
    except (OSError, ValueError) as refused:
        advice = "Start that server, or unset PREFECT_API_URL (also in the profile) to run without one."
        return problem("Prefect", f"{url} does not answer: {refused}", advice)
    return check_prefect_version(url, str(theirs), version("prefect"))


def check_prefect_version(url: str, theirs: str, ours: str) -> Check:
    """Client and server should be the same version."""
    if theirs != ours:
        advice = f"Install the same version on both sides: `pip install prefect=={ours}` there."
        return warning("Prefect", f"{url} is {theirs}, this is {ours}; newer clients may be refused", advice)
    return ok("Prefect", f"server {url}, version {theirs}")


def look_at_ports() -> list[Check]:
    """Whether the pages can have their usual ports."""
    taken = [f"{port} ({name})" for name, port in PORTS.items() if not servers.is_free(port)]
    if taken:
        advice = "Nothing to do: `mergeline ui` takes the next free one and says which."
        return [warning("ports", f"taken: {', '.join(taken)}", advice)]
    return [ok("ports", f"{', '.join(map(str, PORTS.values()))} free")]


def look_at_orphans(project: Project) -> Check:
    """Servers of this project that nobody stops any more."""
    found = servers.orphans(project)
    if found:
        advice = "The next `mergeline run` or `mergeline ui` stops them."
        return warning("servers", f"left behind by killed runs: {', '.join(map(str, found))}", advice)
    return ok("servers", "none left behind")
