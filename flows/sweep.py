"""Several studies in one: a flow that runs a study at every combination of its file's axes, and compares them."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from prefect import flow

from flows.axes import load_cells
from flows.study import command_of, study_flow
from merge_lib.errors import MergeError
from tasks.progress import StoppedError, check_stop, is_stopping
from tasks.project import Project
from tasks.runs import load_run, start_run
from tasks.sweep_reporting import report_sweep
from tasks.sweeps import Sweep, SweepCell, load_sweep, save_sweep, start_sweep


@flow(name="sweep", flow_run_name="{study}")
def sweep_flow(
    study: str, overrides: Sequence[str] = (), sweep_id: str | None = None, trainer: str | None = None
) -> str:
    """Run a study at every combination of its axes, one after another, then compare them.

    A cell that fails does not keep the others from running; work that cells share is done once.

    Args:
        study: the study's YAML file, seen from the project's folder.
        overrides: `key=value` settings that replace those of the file.
        sweep_id: a sweep to go on with; None starts a new one.
        trainer: the deployment that fine-tunes, such as `fine-tune/gpu`; None trains in this process.

    Returns:
        The sweep's id.

    Raises:
        MergeError: cells failed; those that did not are finished.
        StoppedError: a stop was requested.
    """
    project = Project.find()
    started = time.monotonic()
    sweep = load_sweep(project, sweep_id) if sweep_id else open_sweep(project, study, overrides)
    failures: list[str] = []
    for place in range(len(sweep.cells)):
        check_stop()
        sweep = _with_run(project, sweep, place)
        try:
            _finish_cell(project, sweep.cells[place], trainer)
        except MergeError as failure:
            failures.append(f"{_title(sweep.cells[place])}: {failure}")
    elapsed_s = sweep.elapsed_s + time.monotonic() - started
    sweep = save_sweep(project, replace(sweep, elapsed_s=elapsed_s))
    if failures:
        raise (StoppedError if is_stopping() else MergeError)("\n".join(failures))
    report_sweep(project, sweep)
    save_sweep(project, replace(sweep, status="finished"))
    return sweep.sweep_id


def open_sweep(project: Project, study: str, overrides: Sequence[str]) -> Sweep:
    """Check the study at every combination and make the folder of the sweep."""
    cells = load_cells(Path(study), overrides)
    configs = [(cell.levels, cell.study.model_dump(mode="json")) for cell in cells]
    return start_sweep(project, cells[0].study.study, configs, command_of(study, overrides, {}))


def _with_run(project: Project, sweep: Sweep, place: int) -> Sweep:
    """The sweep with the run of that cell begun."""
    cell = sweep.cells[place]
    if cell.run_id is not None:
        return sweep
    levels = "".join(f" --level '{axis}={level}'" for axis, level in cell.levels.items())
    run = start_run(project, sweep.study, cell.config, f"{sweep.command}{levels}")
    return save_sweep(project, sweep.begun(place, run.run_id))


def _finish_cell(project: Project, cell: SweepCell, trainer: str | None) -> None:
    assert cell.run_id is not None
    run = load_run(project, cell.run_id)
    if run.status != "finished":
        study_flow(run.study, run_id=run.run_id, trainer=trainer)


def _title(cell: SweepCell) -> str:
    return ", ".join(f"{axis}={level}" for axis, level in cell.levels.items())
