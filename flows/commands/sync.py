"""`mergeline sync`: deliver to MLflow what waited while it was out of reach."""

import sys

import typer

from flows.commands.options import AsJson
from flows.console import amounts_shown, err, out, print_json
from tasks.project import Project


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("sync", help="Deliver to MLflow the records that waited while it was out of reach.")(sync)


def sync(as_json: AsJson = False) -> None:
    """Deliver everything that waits."""
    from flows.environment import prepare

    project = Project.find()
    prepare(project)
    from tasks.tracking import count_waiting, deliver_all

    with amounts_shown("delivering", count_waiting(project)) as advance:
        told = deliver_all(project, advance)
    if as_json:
        print_json(told)
    for entry in told if not as_json else ():
        state = f"{entry['delivered']} delivered" + (
            f", {entry['waiting']} still waiting" if entry["waiting"] else ""
        )
        out.print(f"{entry['run']}: {state}")
        if entry["failure"]:
            err.print(entry["failure"], markup=False)
    if not told and not as_json:
        out.print(f"Nothing waits; {project.tracking_uri} has every record.")
    if any(entry["failure"] for entry in told):
        sys.exit(1)
