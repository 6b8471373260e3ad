"""`mergeline report`, `lineage` and `verify`: look at what a run left."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.options import AsJson, RunName
from flows.console import out, print_json, shown
from flows.summary import show_summary
from merge_lib.errors import CheckpointError, SpecError
from merge_lib.results import StudyResults
from tasks.project import Project


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("report", help="Show what a run measured; builds its report anew.")(report)
    app.command("lineage", help="Follow every merged model of a run back to its data.")(lineage)
    app.command("verify", help="Recompute the digest of a checkpoint and show the origin it names.")(verify)


def report(run: RunName = "latest", as_json: AsJson = False) -> None:
    """Build the report of a finished run or sweep again and print its summary."""
    from tasks.journal import results_of
    from tasks.sweeps import list_sweeps

    project = Project.find()
    if run in list_sweeps(project):
        _report_sweep(project, run, as_json=as_json)
        return
    run_id = finished(project, run)
    results = results_of(project, run_id)
    if as_json:
        print_json(plain_results(results))
        return
    from merge_lib.report import build_report

    files = build_report(results, project.runs / run_id / "report")
    show_summary(results)
    out.print(f"Report:  {shown(files.html)}\n         {shown(files.markdown)}", soft_wrap=True)


def _report_sweep(project: Project, sweep_id: str, *, as_json: bool) -> None:
    from flows.commands.sweeps import show_sweep
    from tasks.sweep_reporting import write_sweep
    from tasks.sweeps import load_sweep

    sweep = load_sweep(project, sweep_id)
    if sweep.status != "finished":
        raise SpecError(
            f"Sweep '{sweep_id}' is not finished. Go on with it: mergeline run --resume {sweep_id}"
        )
    if not as_json:
        write_sweep(project, sweep)
    show_sweep(project, sweep_id, as_json=as_json)


def plain_results(results: StudyResults) -> dict[str, Any]:
    """What `--json` prints of a run: the results, and the leaderboard that follows from them."""
    from merge_lib.report import leaderboard

    return {**asdict(results), "leaderboard": leaderboard(results)}


def lineage(
    run: RunName = "latest",
    label: Annotated[str | None, typer.Option("--label", help="Only the rows of this label.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print data hash → checkpoint → merge recipe → merged model → metric."""
    from flows.lineage import lineage_lines, lineage_of
    from tasks.journal import results_of
    from tasks.runs import keeping, load_run

    project = Project.find()
    results = results_of(project, finished(project, run))
    entries = lineage_of(project, results, label)
    if not entries:
        labels = sorted({row.label for row in results.rows})
        raise SpecError(f"The run has no row '{label}'. Known labels: {', '.join(labels)}.")
    if as_json:
        print_json(entries)
        return
    for line in lineage_lines(entries):
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    if any(entry["model"]["path"] is None for entry in entries):
        again = keeping(load_run(project, results.run_id).command)
        line = f"Merges that are not kept are made again, with the same digests, by: {again}"
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def verify(
    file: Annotated[Path, typer.Argument(help="A safetensors file that Mergeline wrote.")],
    as_json: AsJson = False,
) -> None:
    """Exit 0 if the file holds what its own record says, 1 if not."""
    from merge_lib.checkpoints import open_checkpoint
    from merge_lib.checkpoints import verify as recompute

    _check_kept(file)
    found = recompute(file)
    with open_checkpoint(file) as reader:
        origin = reader.lineage
    if as_json:
        print_json({**asdict(found), "path": str(found.path), "matches": found.matches, "lineage": origin})
    elif found.recorded is None:
        out.print(
            f"{file}: digest {found.digest}; the file names no origin, so there is nothing to compare it with."
        )
    else:
        out.print(f"{file}: digest {found.digest}, as recorded." if found.matches else f"{file}: changed.")
        for key in sorted(origin.keys() - {"digest"}):
            out.print(f"  {key}: {origin[key]}", markup=False, highlight=False, soft_wrap=True)
    if not found.matches and found.recorded is not None:
        raise CheckpointError(
            f"'{file}' has the digest {found.digest}, but records {found.recorded}. It changed after it was "
            "written: make it again with the recipe in its lineage, or restore it."
        )
    if found.recorded is None:
        sys.exit(1)


def _check_kept(file: Path) -> None:
    """Refuse the place of a merge that was not kept, with the way to make it."""
    from tasks.records import RECORD, RecordStore

    folder = file.resolve() if file.is_dir() else file.resolve().parent
    if not (folder / RECORD).is_file():
        return
    record = RecordStore(folder.parent.parent).find(folder.parent.name, folder.name)
    if record is not None and record.values.get("checkpoint", "") is None:
        raise CheckpointError(
            f"'{file}' was not kept, so there is no file to verify: its study said keep_merged: false. The merge's "
            f"digest is {record.values['digest']}; run the study with --set keep_merged=true to have it as a file."
        )


def finished(project: Project, run: str) -> str:
    """The id of a run that has results.

    Raises:
        SpecError: there is no such run, or it has none yet.
    """
    from tasks.runs import load_run

    found = load_run(project, run)
    if not (project.runs / found.run_id / "results.json").is_file():
        raise SpecError(
            f"Run '{found.run_id}' is {found.status}; it has no results yet. "
            f"Go on with it: mergeline run --resume {found.run_id}"
        )
    return found.run_id
