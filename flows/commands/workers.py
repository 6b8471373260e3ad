"""`mergeline deploy` and `mergeline workers`: scheduled runs, and training on the GPUs of this machine."""

import os
import subprocess
import sys
from typing import Annotated

import typer

from flows.console import err
from merge_lib.errors import MergeError
from tasks.project import Project


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("deploy", help="Put the deployments of prefect.yaml on the Prefect server.")(deploy)
    app.command("workers", help="Serve the work pools: one worker for each GPU, one for everything else.")(
        workers
    )


def deploy() -> None:
    """Make the work pools and put the deployments on the server."""
    project = _project_on_server()
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    quiet = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    done = subprocess.run(command, cwd=project.root, check=False, **quiet)
    if done.returncode != 0:
        raise MergeError(
            f"`prefect --no-prompt deploy --all` failed in '{project.root}' with status {done.returncode}: "
            f"{(done.stdout + done.stderr).strip()[-1500:]} Mend what it names in prefect.yaml and deploy again."
        )
    err.print(f"The deployments of {project.root / 'prefect.yaml'} are on the server.", highlight=False)
    err.print("Their runs start in this folder, as soon as there are workers: [bold]mergeline workers[/]")


def workers(
    devices: Annotated[
        str | None,
        typer.Option(
            metavar="0,1,…",
            help="GPUs to train on, by index among the visible ones. All of them, if left out.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run the workers of this machine until Ctrl-C."""
    project = _project_on_server()
    from flows.workers import plan_workers, run_workers
    from tasks.devices import MASK, count_devices

    asked = None if devices is None else [index.strip() for index in devices.split(",")]
    count = count_devices()
    specs = plan_workers(asked, os.environ.get(MASK), count)
    if count == 0:
        err.print("torch sees no GPU on this machine: training runs on the CPU.")
    for spec in specs:
        err.print(f"  pool {spec.pool}: worker '{spec.name}'", highlight=False)
    os.chdir(project.root)
    run_workers(specs, lambda line: err.print(line, highlight=False))


def _project_on_server() -> Project:
    """The project, once the server answers and the work pools are there."""
    from flows.environment import prepare

    project = Project.find()
    prepare(project, is_verbose=True)
    from flows.pools import make_pools, require_server

    url = require_server()
    made = make_pools()
    err.print(f"Prefect server: {url}" + (f" (made the work pools {' and '.join(made)})" if made else ""))
    return project
