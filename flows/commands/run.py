"""`mergeline run`: a study from data to report."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.options import Overrides
from flows.console import err, out, print_json, shown, work_shown
from merge_lib.errors import MergeError, SpecError
from tasks import progress
from tasks.project import Project

if TYPE_CHECKING:
    from flows.config import StudyConfig


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run", help="Run a study: data, training, every merge after every task, evaluation, report.")(
        run
    )


def run(
    study: Annotated[Path | None, typer.Argument(help="The study's YAML file.", show_default=False)] = None,
    overrides: Overrides = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume",
            metavar="RUN",
            help="Go on with a run that was stopped or lacks rows; `latest` is allowed. --set changes its settings.",
        ),
    ] = None,
    chosen: Annotated[
        list[str] | None,
        typer.Option(
            "--level", metavar="AXIS=LEVEL", help="Of a study with axes, only the runs at this level."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    is_verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the log lines of Prefect and its server.")
    ] = False,
) -> None:
    """Run a study, or each study of a file with axes."""
    from flows.environment import prepare

    if (study is None) == (resume is None):
        raise SpecError("Give either a study's YAML file or --resume RUN, not both and not neither.")
    if resume is not None and chosen:
        raise SpecError("--resume goes on with one run; start a new one to use --level.")
    project = Project.find()
    prepare(project, is_verbose=is_verbose)
    if study is not None:
        studies, asked = _asked(study, overrides or [], chosen or [])
    else:
        studies, asked = _to_resume(project, str(resume), overrides or [])
    run_id = _run_watched(project, studies, asked)
    if "sweep_id" in asked:
        from flows.commands.sweeps import show_sweep

        show_sweep(project, run_id, as_json=as_json)
    else:
        _show(project, run_id, as_json=as_json)


def _asked(
    study: Path, overrides: list[str], chosen: list[str]
) -> tuple[list["StudyConfig"], dict[str, Any]]:
    """The studies of a file, and what their flow is called with."""
    from flows.axes import load_cells, narrowed

    cells = load_cells(study, overrides)
    asked: dict[str, Any] = {"study": str(study), "overrides": tuple(overrides)}
    cells = narrowed(cells, chosen)
    if len(cells) == 1:
        return [cells[0].study], {**asked, "levels": dict(cells[0].levels)}
    if chosen:
        raise SpecError(
            f"--level leaves {len(cells)} combinations of the axes: {'; '.join(cell.title for cell in cells[:6])} …. "
            "Name a level of each axis to run one, or none to run all."
        )
    return [cell.study for cell in cells], {**asked, "sweep_id": None}


def _to_resume(
    project: Project, resume: str, overrides: list[str]
) -> tuple[list["StudyConfig"], dict[str, Any]]:
    """The studies of a run or sweep that was stopped, and what their flow is called with."""
    from flows.config import changed_study, restore_study
    from tasks.runs import load_run
    from tasks.sweeps import list_sweeps, load_sweep

    if resume in list_sweeps(project):
        if overrides:
            raise SpecError(
                "--resume goes on with a sweep as it is; start a new one to use --set, or resume one of its runs."
            )
        sweep = load_sweep(project, resume)
        studies = [restore_study(project.root, cell.config) for cell in sweep.cells]
        return studies, {"study": sweep.study, "sweep_id": sweep.sweep_id}
    earlier = load_run(project, resume)
    study = changed_study(project.root, earlier.config, overrides) if overrides else None
    asked = {"study": earlier.study, "run_id": earlier.run_id, "overrides": tuple(overrides)}
    return [study or restore_study(project.root, earlier.config)], asked


def _run_watched(project: Project, studies: list["StudyConfig"], asked: dict[str, Any]) -> str:
    """Run the flow under a progress bar; Ctrl-C stops it at the next step."""
    from flows.launch import launch
    from flows.preflight import check_before, check_writable
    from flows.servers import prefect_for_run, stop_orphans

    check_writable(project)
    stop_orphans(project)
    with prefect_for_run(project) as wait_for_prefect:  # it starts while the plan is made
        estimates = check_before(project, studies)
        started = time.monotonic()
        with (
            _stopping_cleanly(asked),
            work_shown("starting Prefect", estimates.total_s) as (bars, bar),
        ):
            wait_for_prefect()
            run_id = launch(project, asked, estimates, bars, bar)
    err.print(f"[dim]{run_id}: finished in {time.monotonic() - started:.0f} s[/]")
    return run_id


@contextmanager
def _stopping_cleanly(asked: dict[str, Any]) -> Iterator[None]:
    """Turn the first Ctrl-C into a stop after which everything finished is kept, and say how to go on.

    Where steps are waited for, they end by themselves; an exception in the midst of handing them out could leave
    some that are waited for and never begin. The second Ctrl-C is an exception everywhere.
    """
    from tasks.runs import begun_here

    def stop(_signal: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if not progress.request_stop():
            raise KeyboardInterrupt

    earlier = len(begun_here())

    def how_to_resume() -> str:
        known = [name for name in (asked.get("run_id"), asked.get("sweep_id")) if name]
        name = next(iter((*known, *begun_here()[earlier:])), None)
        return f"mergeline run --resume {name}" if name else "the same command"

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    except (KeyboardInterrupt, progress.StoppedError):
        err.print(
            f"\nStopped. What was finished is kept; go on with: [bold]{how_to_resume()}[/]",
            highlight=False,
            soft_wrap=True,
        )
        sys.exit(130)
    except MergeError as failure:
        failure.add_note(f"What was finished is kept; after mending: {how_to_resume()}")
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def _show(project: Project, run_id: str, *, as_json: bool) -> None:
    from flows.commands.inspect import plain_results, show_summary
    from tasks.journal import results_of

    results = results_of(project, run_id)
    if as_json:
        print_json(plain_results(results))
        return
    show_summary(results)
    out.print(f"Report:  {shown(project.runs / run_id / 'report' / 'report.html')}", soft_wrap=True)
    out.print("MLflow:  [bold]mergeline ui[/] opens the pages", soft_wrap=True)
