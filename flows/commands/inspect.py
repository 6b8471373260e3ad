"""`mergeline report`, `lineage` and `verify`: look at what a run left."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.options import AsJson, RunName
from flows.console import out, print_json, shown
from merge_lib.errors import CheckpointError, SpecError
from merge_lib.results import StudyResults
from tasks.project import Project

if TYPE_CHECKING:  # the report needs numpy, which takes longer than a help text may
    from rich.table import Table

    from merge_lib.report import SummaryRow
    from merge_lib.report.layout import Cell


SUMMARY_COLUMNS = {
    "average_accuracy": "accuracy",
    "worst_task_accuracy": "worst task",
    "forgetting": "forgot",
}


BEST = "★"
SIGNS = {"best": BEST, "tie": "≈"}
LABEL_WIDTH = 24


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("report", help="Show what a run measured; builds its report anew.")(report)
    app.command("lineage", help="Follow every merged model of a run back to its data.")(lineage)
    app.command("verify", help="Recompute the digest of a checkpoint and show the origin it names.")(verify)


def report(run: RunName = "latest", as_json: AsJson = False) -> None:
    """Build the report of a finished run again and print its summary."""
    from tasks.journal import results_of

    project = Project.find()
    run_id = finished(project, run)
    results = results_of(project, run_id)
    if as_json:
        print_json(plain_results(results))
        return
    from merge_lib.report import build_report

    files = build_report(results, project.runs / run_id / "report")
    show_summary(results)
    out.print(f"Report:  {shown(files.html)}\n         {shown(files.markdown)}", soft_wrap=True)


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


def show_summary(results: StudyResults) -> None:
    """The leaderboard and the references, as the terminal shows them: a table for each board, columns in line."""
    from merge_lib.report import summary_table

    rows = summary_table(results, tuple(SUMMARY_COLUMNS))
    has_regimes = len({row.regime for row in rows if row.kind == "merge"}) > 1
    headings = ["method", *(["regime"] if has_regimes else []), *SUMMARY_COLUMNS.values(), "s", "data"]
    lines = [(row.board, _summary_line(row, has_regimes=has_regimes)) for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *(line for _, line in lines), strict=True)]
    widths[0] = min(widths[0], LABEL_WIDTH)
    out.print(
        f"{results.study}: {results.scenario}, {len(results.tasks)} tasks, {len(results.seeds)} seeds",
        markup=False,
    )
    boards = list(dict.fromkeys(board for board, _ in lines))
    for board in boards:
        of_board = [line for name, line in lines if name == board]
        table = _summary_table(board or "References", headings, widths, of_board)
        table.show_header = board == boards[0]
        out.print(table)
    company = " of its group" if len(boards) > 2 else ""
    out.print(
        f"Percent, mean ± 95 % interval over the seeds; ★ better than all others{company} by a paired test, "
        f"≈ not distinguishable from the best{company}; s: seconds a merge."
    )


def _summary_table(
    title: str, headings: Sequence[str], widths: Sequence[int], lines: Sequence[Sequence[str]]
) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    for place, (heading, width) in enumerate(zip(headings, widths, strict=True)):
        is_number = heading in (*SUMMARY_COLUMNS.values(), "s")
        justify = "right" if is_number else "left"
        table.add_column(heading, justify=justify, width=width, no_wrap=place > 0)
    for line in lines:
        style = "bold green" if any(cell.startswith(BEST) for cell in line) else None
        table.add_row(*line, style=style)
    return table


def _summary_line(row: "SummaryRow", *, has_regimes: bool) -> list[str]:
    regime = [row.regime or "–"] if has_regimes else []
    costs = [row.costs[name].text if row.costs else "" for name in ("seconds", "data")]
    return [row.label, *regime, *(_cell(cell) for cell in row.cells.values()), *costs]


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


def _cell(cell: "Cell") -> str:
    return f"{SIGNS[cell.mark]} {cell.text}" if cell.mark else cell.text
