"""Curves of a sweep: over the values of a setting, and over the levels of an axis."""

from collections.abc import Iterator, Sequence

import numpy as np

from merge_lib.metrics import describe
from merge_lib.report.aggregate import Group, gather, merges_of, ranked_of
from merge_lib.report.charts import Curve, value_panel
from merge_lib.report.layout import Figure, Panel
from merge_lib.results import Row
from merge_lib.sweep_table import MeasuredCell

MOST_PANELS = 24  # of one figure
A_BIT_MORE = 1.05  # above which a share does not count as all of it


def path_panels(cell: MeasuredCell) -> Iterator[Panel]:
    """For every family of rows that differ in one number, and each task and probe: accuracy over that number."""
    families: dict[str, list[Group]] = {}
    for group in merges_of(gather(cell.results)):
        families.setdefault(cell.family_of(group.rows[0]), []).append(group)
    for family, groups in families.items():
        name = _varied(groups)
        if name is None:
            continue
        positions = sorted({float(group.rows[0].params[name]) for group in groups})
        for measure in _measures(groups[0], cell.results.tasks):
            curves = [
                Curve(regime or "parallel", regime or family, values)
                for regime in dict.fromkeys(group.regime for group in groups)
                if (values := _along(groups, regime, name, positions, measure, cell.results.tasks))
                is not None
            ]
            title = f"{measure} · {cell.title}" if cell.levels else measure
            yield value_panel(title, curves, positions, high=1.0, x_title=f"{family}: {name}")


def _varied(groups: Sequence[Group]) -> str | None:
    """The one numeric parameter in which the rows differ."""
    params = [group.rows[0].params for group in groups]
    names = [name for name in params[0] if len({str(other.get(name)) for other in params}) > 1]
    is_one = len(names) == 1 and all(isinstance(other.get(names[0]), int | float) for other in params)
    return names[0] if is_one else None


def _measures(group: Group, tasks: Sequence[str]) -> list[str]:
    probes = group.rows[0].probes
    return [*tasks, *(probes[-1] if probes else ())]  # those of the last stage


def _along(
    groups: Sequence[Group],
    regime: str | None,
    name: str,
    positions: Sequence[float],
    measure: str,
    tasks: Sequence[str],
) -> np.ndarray | None:
    """[seeds, positions] of a measure at the last stage; None where a position lacks a seed."""
    columns = []
    for position in positions:
        found = [g for g in groups if g.regime == regime and float(g.rows[0].params[name]) == position]
        if not found:
            return None
        columns.append([_last(row, measure, tasks) for row in found[0].rows])
    return np.array(columns).T if len({len(column) for column in columns}) == 1 else None


def _last(row: Row, measure: str, tasks: Sequence[str]) -> float:
    """NaN where a row has no such probe, as methods that need the task have none."""
    if measure in tasks:
        return row.accuracy[-1][tasks.index(measure)]
    return row.probes[-1].get(measure, np.nan) if row.probes else np.nan


def metric_panels(
    cells: Sequence[MeasuredCell], metric: str, positions: Sequence[float], held: str, axis: str
) -> Iterator[Panel]:
    """A metric of every method over the positions of an axis, a cell each."""
    gathered = [{(g.label, g.regime): g for g in ranked_of(gather(cell.results))} for cell in cells]
    labels = dict.fromkeys(label for groups in gathered for label, _ in groups)
    for label in labels:
        curves = []
        for regime in dict.fromkeys(r for groups in gathered for name, r in groups if name == label):
            columns = [_values(groups.get((label, regime)), metric) for groups in gathered]
            if all(columns) and len({len(column) for column in columns}) == 1:
                curves.append(Curve(regime or "parallel", regime or label, np.array(columns).T))
        if curves:
            title = f"{label} · {describe()[metric].title}" + (f" · {held}" if held else "")
            high = 1.5 if max(np.nanmax(curve.values) for curve in curves) > A_BIT_MORE else 1.0
            yield value_panel(title, _within(curves, high), positions, high=high, x_title=axis)


def _within(curves: Sequence[Curve], high: float) -> list[Curve]:
    """The curves as far as the chart goes."""
    return [Curve(one.style, one.name, np.clip(one.values, 0.0, high), one.has_band) for one in curves]


def _values(group: Group | None, metric: str) -> list[float]:
    found = [] if group is None else list(group.values(metric).values())
    return (
        []
        if any(value is None for value in found)
        else [float(value) for value in found if value is not None]
    )


def curve_figure(name: str, title: str, panels: list[Panel]) -> Figure:
    """The charts as one figure; no more than a page has room for."""
    cut = (
        f" The first {MOST_PANELS} of {len(panels)} charts; all numbers are in sweep.parquet."
        if len(panels) > MOST_PANELS
        else ""
    )
    caption = f"In %, mean over the seeds; band: range of the seeds.{cut}"
    legend = [("sequential", "sequential experts"), ("parallel", "parallel experts")]
    return Figure(name, title, title, caption, panels[:MOST_PANELS], legend, 3)
