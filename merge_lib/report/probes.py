"""What is measured beside the tasks of the sequence: probes, such as data never trained on, and tasks to come."""

from collections.abc import Sequence

import numpy as np

from merge_lib.metrics import mtil_transfer
from merge_lib.report.aggregate import Aggregate, Group, merges_of, ranked_of, references_of
from merge_lib.report.charts import Curve, line_panel
from merge_lib.report.figures import by_label, regime_legend
from merge_lib.report.layout import UNDEFINED, Cell, Column, Figure, Section, Table
from merge_lib.statistics import mean_interval

LEAD = (
    "Measured after every task beside the tasks that were learned so far; the base says where it all began."
)
NOTE = (
    "In % and points, mean ± half the 95 % interval over the seeds. Last: after the last task. Lowest: of all stages. "
    "Change: last minus base. To come: accuracy on tasks before they are learned, mean over the stages before each, "
    "then over the tasks (MTIL's Transfer)."
)
_DRAWN = 2  # probes whose curves fit into one chart


def section(groups: Sequence[Group], tasks: Sequence[str]) -> Section | None:
    """A table and, where there are stages to follow, curves; None where a study has no probes."""
    names = _names(groups)
    if not names:
        return None
    figure = _curves(groups, names[:_DRAWN]) if len(tasks) > 1 else None
    table = _table(groups, names, size=len(tasks))
    return Section("probes", "Probes and tasks to come", [LEAD], [table, *([figure] if figure else [])])


def _names(groups: Sequence[Group]) -> list[str]:
    """Probes that every merge and learner was asked, in their order."""
    asked = [row.probes[-1] for group in ranked_of(groups) for row in group.rows if row.probes]
    complete = len(asked) == sum(len(group.rows) for group in ranked_of(groups))
    return [name for name in asked[0] if all(name in one for one in asked)] if asked and complete else []


def _table(groups: Sequence[Group], names: Sequence[str], *, size: int) -> Table:
    base = _base(groups)
    columns = [Column("Method", is_numeric=False), Column("Experts", is_numeric=False)]
    for name in names:
        columns += [Column(title, name) for title in ("Last", "Lowest", "Change")]
    columns += [Column("To come")] if size > 1 else []
    shown = [group for group in references_of(groups) if _values(group, names[0]) is not None]
    rows = [
        [
            Cell(group.title, group.method),
            Cell(group.regime or UNDEFINED),
            *(cell for name in names for cell in _cells(group, name, base)),
            *([_to_come(group)] if size > 1 else []),
        ]
        for group in [*shown, *ranked_of(groups)]
    ]
    return Table("Probes and tasks to come", columns, rows, [NOTE])


def _base(groups: Sequence[Group]) -> Group | None:
    return next((group for group in references_of(groups) if group.method == "base"), None)


def _cells(group: Group, name: str, base: Group | None) -> list[Cell]:
    """Last, lowest and change of a probe."""
    values, start = _values(group, name), None if base is None else _values(base, name)
    if values is None:
        return [Cell(UNDEFINED)] * 3
    if group is base or start is None:
        return [_cell(values[:, -1]), Cell(UNDEFINED), Cell(UNDEFINED)]
    if group.method == "expert":  # each its own model: no stages of one
        return [_cell(values.mean(axis=1)), _cell(values.min(axis=1)), Cell(UNDEFINED)]
    begun = _by_seed(group, base, start)
    return [_cell(values[:, -1]), _cell(values.min(axis=1)), _cell(values[:, -1] - begun)]


def _by_seed(group: Group, base: Group, start: np.ndarray) -> np.ndarray:
    """[n], what the base of each of the group's seeds had; one base may be that of all."""
    by_seed = {row.seed: value for row, value in zip(base.rows, start[:, 0], strict=True)}
    return np.array([by_seed.get(row.seed, by_seed.get(None, np.nan)) for row in group.rows])


def _to_come(group: Group) -> Cell:
    if group.method == "expert":
        return Cell(UNDEFINED, "each expert is another model")
    found = [mtil_transfer(matrix) for matrix in group.matrices()]
    return Cell(UNDEFINED) if None in found else _cell(np.array(found, dtype=float))


def _values(group: Group, name: str) -> np.ndarray | None:
    """[n, stages], or None where a row was not asked."""
    if not all(row.probes and all(name in stage for stage in row.probes) for row in group.rows):
        return None
    return np.array([[stage[name] for stage in row.probes] for row in group.rows])


def _cell(values: np.ndarray) -> Cell:
    if np.isnan(values).any():
        return Cell(UNDEFINED)
    return Aggregate(mean_interval(values.tolist())).cell()


def _curves(groups: Sequence[Group], names: Sequence[str]) -> Figure:
    """One chart for each label: its probes after each task, and the base's as quiet lines."""
    base = _base(groups)
    panels = []
    for label, members in by_label(groups):
        curves = [
            curve
            for place, name in enumerate(names)
            for curve in _drawn(members, base, name, is_second=place > 0)
        ]
        panels.append(line_panel(label, curves, high=1.0, x_title="tasks learned"))
    legend = regime_legend(merges_of(groups))
    legend += list(zip(("line-solid", "line-dashed"), names, strict=False))
    legend += [("line-quiet", "the base")] if base is not None else []
    return Figure(
        "probes",
        "Probes after each task",
        "Probes after each task, one chart for each method.",
        "In %, mean over the seeds; the band is their range.",
        panels,
        legend,
        3,
    )


def _drawn(members: Sequence[Group], base: Group | None, name: str, *, is_second: bool) -> list[Curve]:
    found = []
    start = None if base is None else _values(base, name)
    for group in members:
        values = _values(group, name)
        if values is None:
            continue
        if start is not None and not found:
            level = np.broadcast_to(start.mean(), (1, values.shape[1]))
            found.append(Curve("quiet", f"{name}, base", level, has_band=False))
        style = f"{group.regime or 'parallel'}{' second' if is_second else ''}"
        found.append(Curve(style, f"{name}, {group.regime or 'one regime'}", values, has_band=not is_second))
    return found
