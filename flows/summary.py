"""The summary of a run as the terminal shows it: the leaderboard and the references, in columns that fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flows.console import out
from merge_lib.results import StudyResults

if TYPE_CHECKING:  # the report needs numpy, which takes longer than a help text may
    from rich.table import Table

    from merge_lib.report import SummaryRow
    from merge_lib.report.layout import Cell

METRICS = {
    "average_accuracy": "accuracy",
    "worst_task_accuracy": "worst task",
    "forgetting": "forgot",
}
BEST = "★"
SIGNS = {"best": BEST, "tie": "≈"}
METHOD_WIDTH = 28  # a longer name is broken, as those of references may be
GAP = 2  # between two columns


@dataclass(frozen=True)
class Column:
    """One column of all tables: its heading, and its text in each line."""

    heading: str
    texts: Sequence[str]
    width: int  # in characters
    is_number: bool = True


def show_summary(results: StudyResults) -> None:
    """Print a table for each board of the leaderboard and one of the references, with columns in line."""
    from merge_lib.report import summary_table

    rows = summary_table(results, tuple(METRICS))
    columns = columns_within(out.width, columns_of(rows))
    out.print(title_of(results), markup=False)
    boards = list(dict.fromkeys(row.board for row in rows))
    for board in boards:
        lines = [place for place, row in enumerate(rows) if row.board == board]
        table = _table(board or "References", columns, lines)
        table.show_header = board == boards[0]
        out.print(table)
    company = " of its group" if len(boards) > 2 else ""
    seconds = "; s: seconds a merge" if any(column.heading == "s" for column in columns) else ""
    marks = (
        f", mean ± 95 % interval over the seeds; ★ better than all others{company} by a paired test, "
        f"≈ not distinguishable from the best{company}"
        if len(results.seeds) > 1
        else " of one seed, so no row is told apart from another"
    )
    out.print(f"Percent{marks}{seconds}.")


def title_of(results: StudyResults) -> str:
    """The study, its scenario where its workload has any, and how many tasks and seeds."""
    counted = (("task", len(results.tasks)), ("seed", len(results.seeds)))
    said = [f"{count} {noun}" if count == 1 else f"{count} {noun}s" for noun, count in counted]
    return f"{results.study}: {', '.join(filter(None, [results.scenario, *said]))}"


def columns_of(rows: Sequence["SummaryRow"]) -> list[Column]:
    """All that the summary can show, the most wanted first; what says nothing here is left out."""
    merges = [row for row in rows if row.kind in ("merge", "learner")]
    longest = max((len(row.label) for row in merges), default=METHOD_WIDTH)
    width = max(len("Each expert alone"), min(longest, METHOD_WIDTH))
    columns = [Column("method", [row.label for row in rows], width, is_number=False)]
    if len({row.regime for row in merges}) > 1:
        columns.append(_column("regime", [row.regime or "–" for row in rows], is_number=False))
    columns += [_column(METRICS[name], [_marked(row.cells[name]) for row in rows]) for name in METRICS]
    columns.append(_column("s", [row.costs["seconds"].text if row.costs else "" for row in rows]))
    needs = [row.costs["data"].text if row.costs else "" for row in rows]
    if len(set(filter(None, needs))) > 1:
        columns.append(_column("data", needs, is_number=False))
    return columns


def columns_within(width: int, columns: Sequence[Column]) -> list[Column]:
    """The columns that a line of so many characters has room for; the first two always, figures never cut."""
    shown = list(columns)
    while len(shown) > 2 and 1 + sum(column.width + GAP for column in shown) > width:
        shown.pop()
    return shown


def _column(heading: str, texts: Sequence[str], *, is_number: bool = True) -> Column:
    return Column(heading, texts, max(map(len, (heading, *texts))), is_number)


def _table(title: str, columns: Sequence[Column], lines: Sequence[int]) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    for place, column in enumerate(columns):
        table.add_column(
            column.heading,
            justify="right" if column.is_number else "left",
            width=column.width,
            no_wrap=place > 0,
        )
    for line in lines:
        cells = [column.texts[line] for column in columns]
        table.add_row(*cells, style="bold green" if any(cell.startswith(BEST) for cell in cells) else None)
    return table


def _marked(cell: "Cell") -> str:
    return f"{SIGNS[cell.mark]} {cell.text}" if cell.mark else cell.text
