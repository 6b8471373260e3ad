"""`mergeline doctor`: is all in place, and if not, what to do."""

import sys
from dataclasses import asdict

import typer

from flows.commands.options import AsJson
from flows.console import amounts_shown, out, print_json
from tasks.project import Project

MARKS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "problem": "[bold red]problem[/]"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", help="Look at the environment, servers, disk, GPUs and versions; say what to do.")(
        doctor
    )


def doctor(as_json: AsJson = False) -> None:
    """Exit 0 if nothing stops work, 1 if something does."""
    from flows.doctor import examine
    from flows.environment import prefect_api_url

    project = Project.find()
    examinations = _examinations(project, prefect_api_url())
    with amounts_shown("looking", len(examinations)) as advance:
        checks = examine(examinations, advance)
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        _show(checks)
    if any(check.state == "problem" for check in checks):
        sys.exit(1)


def _examinations(project: Project, prefect_url: str | None) -> list:
    import shutil
    import tempfile

    import psutil

    from flows.doctor import Examination, folder, machine, services
    from tasks.slots import available_cores

    def computer() -> list:
        return [machine.check_memory(available_cores(), psutil.virtual_memory().available)]

    def packages() -> list:
        locked = machine.locked_versions(project.root / "requirements.lock")
        return machine.check_packages(machine.installed_versions(), locked)

    def disk() -> list:
        needed = machine.needed_bytes(project)
        own, temporary = shutil.disk_usage(project.root), shutil.disk_usage(tempfile.gettempdir())
        return [
            machine.check_disk("disk", own.free, needed),
            machine.check_disk(tempfile.gettempdir(), temporary.free, machine.TMP_BYTES),
        ]

    return [
        Examination("Python", lambda: [machine.check_python(sys.version_info[:2])]),
        Examination("packages", packages),
        Examination("torch", machine.look_at_torch, limit_s=60),
        Examination("computer", computer),
        Examination("disk", disk, limit_s=20),
        Examination("project", lambda: [folder.check_writable(project), folder.check_git(project)]),
        Examination("data", lambda: folder.look_at_data(project), limit_s=30),
        Examination("MLflow", lambda: services.look_at_mlflow(project)),
        Examination("records", lambda: folder.check_leftovers(project)),
        Examination("Prefect", lambda: [services.look_at_prefect(prefect_url)]),
        Examination("servers", lambda: [*services.look_at_ports(), services.look_at_orphans(project)]),
        Examination("clock", lambda: [folder.look_at_clock(project)]),
    ]


def _show(checks: list) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("", "", "found"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        advice = f"\n[bold]→ {escape(check.advice)}[/]" if check.advice else ""
        table.add_row(MARKS[check.state], check.name, escape(check.found) + advice)
    out.print(table)
    problems = sum(check.state == "problem" for check in checks)
    warnings = sum(check.state == "warning" for check in checks)
    if problems:
        out.print(f"{problems} to mend.")
    else:
        out.print(
            "Ready: mergeline run studies/digits.yaml" if not warnings else f"Ready; {warnings} to know of."
        )
