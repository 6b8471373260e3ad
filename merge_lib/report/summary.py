"""The rows of the summary in the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from merge_lib.metrics import describe
from merge_lib.report.aggregate import Group, marked, references_of
from merge_lib.report.layout import Cell
from merge_lib.report.leaderboard import data_cell, seconds_text, standings
from merge_lib.report.sizes import bytes_cell
from merge_lib.report.tables import reference_cell


@dataclass(frozen=True)
class SummaryRow:
    """One line of the summary in the terminal; `cells` by metric name, in percent."""

    label: str
    kind: str
    regime: str | None
    seeds: int
    cells: dict[str, Cell]
    board: str = ""  # of merges: in what company the row is compared
    costs: dict[str, Cell] = field(default_factory=dict)  # of merges: model, seconds, data


def summary_rows(groups: Sequence[Group], metrics: Sequence[str]) -> list[SummaryRow]:
    """Merges with their marks, board by board, then references, which compete with nothing."""
    known = describe()
    rows = []
    for board, standing in standings(groups):
        members = [one.group for one in standing]
        columns = {name: marked(members, known[name]) for name in metrics}
        for one in standing:
            group = one.group
            cells = {name: column[group.name].cell() for name, column in columns.items()}
            costs = {
                "model": bytes_cell(group.rows[0].checkpoints[-1].size_bytes),
                "seconds": Cell(seconds_text(one.seconds)),
                "data": data_cell(group),
            }
            rows.append(
                SummaryRow(group.label, group.kind, group.regime, len(group.rows), cells, board.title, costs)
            )
    for group in references_of(groups):
        cells = {name: reference_cell(group, name) for name in metrics}
        rows.append(SummaryRow(group.title, group.kind, group.regime, len(group.rows), cells))
    return rows
