"""`mergeline ui`: the pages of MLflow and Prefect."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from flows.console import err, out
from tasks.project import Project

Port = Annotated[int, typer.Option(min=1024, max=65535, help="Used if free, else the next one that is.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("ui", help="Open the MLflow and Prefect pages of this project; starts them where none run.")(
        ui
    )


def ui(
    opens_browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open both pages in the browser.")
    ] = True,
    mlflow_port: Port = 5000,
    prefect_port: Port = 4200,
) -> None:
    """Open the pages, and keep the servers that this command starts until Ctrl-C."""
    from flows import servers
    from flows.environment import prefect_api_url, prepare

    project = Project.find()
    shared = {"MLflow": os.environ.get("MLFLOW_TRACKING_URI"), "Prefect": prefect_api_url()}
    prepare(project)
    for pid in servers.stop_orphans(project):
        err.print(f"[dim]Stopped process {pid}, a server that a killed run had left behind.[/]")
    pages = {name: _reach(name, url) for name, url in shared.items() if _is_server(url)}
    started = []
    with _until_interrupted():
        try:
            if "MLflow" not in pages:
                started.append(servers.start_mlflow(project, _port("MLflow", mlflow_port)))
            if "Prefect" not in pages:
                taken = tuple(server.port for server in started)
                started.append(servers.start_prefect(project, _port("Prefect", prefect_port, avoid=taken)))
            with err.status("starting the servers"):
                pages |= {server.title: server.wait().address for server in started}
            _show(pages | _comparison(pages["MLflow"]), opens_browser=opens_browser)
            _stay(started)
        finally:
            servers.stop_all(started)


def _is_server(url: str | None) -> bool:
    return url is not None and url.startswith(("http://", "https://"))


def _reach(name: str, url: str) -> str:
    """The address of the pages of a server that the user has, once it has answered."""
    from flows import servers

    address = url.rstrip("/").removesuffix("/api") if name == "Prefect" else url.rstrip("/")
    variable = {"MLflow": "MLFLOW_TRACKING_URI", "Prefect": "PREFECT_API_URL"}[name]
    try:
        servers.ASK[name](address)
    except (OSError, ValueError) as refused:
        raise servers.ServerError(
            f"{variable} names the {name} server {url}, which does not answer: {refused}. "
            f"Start that server, or unset {variable} to use the project's own."
        ) from refused
    return address


def _comparison(mlflow: str) -> dict[str, str]:
    """The page that compares the methods of the study that ran last, if one has run."""
    from flows import servers
    from tasks.comparison import VIEW, VIEW_TAG

    order = {"max_results": 100, "order_by": ["last_update_time DESC"]}
    found = servers.call(f"{mlflow}/api/2.0/mlflow/experiments/search", order)
    for experiment in found.get("experiments", ()):
        if any(tag["key"] == VIEW_TAG for tag in experiment.get("tags", ())):
            page = f"{mlflow}/#/experiments/{experiment['experiment_id']}/runs"
            return {"Compare": f"{page}?workflowType=machine_learning&viewStateShareKey={VIEW}"}
    return {}


def _port(name: str, preferred: int, avoid: tuple[int, ...] = ()) -> int:
    from flows.servers import free_port

    port = free_port(preferred, avoid=avoid)
    if port != preferred:
        err.print(f"Port {preferred} is taken, so {name} gets {port}.")
    return port


def _show(pages: dict[str, str], *, opens_browser: bool) -> None:
    for name in sorted(pages):
        out.print(f"{name + ':':9}{pages[name]}", soft_wrap=True, highlight=False)
    if opens_browser:
        import webbrowser

        for name in ("Prefect", "Compare" if "Compare" in pages else "MLflow"):
            if not webbrowser.open(pages[name]):
                err.print(f"No browser could be opened; open {pages[name]} in one.")


def _stay(started: list[Any]) -> None:
    """Return never; raise if a server ends or the user has had enough."""
    if started:
        err.print("[dim]Ctrl-C stops what was started here.[/]")
    while started:
        for server in started:
            if not server.is_running:
                raise server.failure("ended by itself")
        time.sleep(0.3)


@contextmanager
def _until_interrupted() -> Iterator[None]:
    """Ctrl-C, a closed terminal and a polite kill are how this command ends."""

    def interrupt(_number: int, _frame: object) -> None:
        for other in signals:
            signal.signal(other, signal.SIG_IGN)  # stopping takes a few seconds and is not interrupted
        raise KeyboardInterrupt

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    except KeyboardInterrupt:
        err.print("Stopped.")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
