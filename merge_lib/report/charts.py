"""The geometry of the small charts: numbers in, shapes out.

Drawn as SVG rather than with matplotlib: one drawing follows the light or dark style sheet, its panels reflow
on a phone, its text stays text, and the whole report is built in well under a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

import numpy as np

from merge_lib.report.aggregate import number
from merge_lib.report.layout import Panel, Shape

SHADES = 11  # steps of the heat map's colours
_SQUARE = 6.8  # the side of a square marker


@dataclass(frozen=True)
class Axis:
    """Maps values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        span = self.high - self.low
        return self.start + (value - self.low) / (span or 1.0) * (self.end - self.start)


@dataclass(frozen=True)
class Curve:
    """One line of a line chart: the mean over seeds at each step, and the range of the seeds."""

    style: str
    name: str
    values: np.ndarray  # [n, steps]
    has_band: bool = True


@dataclass(frozen=True)
class Whisker:
    """One mean with its interval in a row of an interval chart."""

    style: str
    name: str
    mean: float
    low: float | None
    high: float | None


def round_range(values: Sequence[float], *, at_most: float | None = None) -> tuple[float, float]:
    """A range with round ends (tenths) around the values, always including 0."""
    finite = [value for value in values if np.isfinite(value)]
    low = min(0.0, np.floor(min(finite, default=0.0) * 10 + 1e-9) / 10)
    high = max(0.1, np.ceil(max(finite, default=1.0) * 10 - 1e-9) / 10)
    return float(low), float(high if at_most is None else min(high, at_most))


def line_panel(title: str, curves: Sequence[Curve], *, high: float, x_title: str) -> Panel:
    """Curves over the stages 1 to T, in percent."""
    steps = max((curve.values.shape[1] for curve in curves), default=1)
    alt = "; ".join(f"{curve.name}: {_end_text(curve.values)}" for curve in curves)
    return _curve_panel(title, curves, range(1, steps + 1), high, (x_title, f"At the last stage: {alt}."))


def value_panel(
    title: str, curves: Sequence[Curve], positions: Sequence[float], *, high: float, x_title: str
) -> Panel:
    """Curves over the values of a setting, ascending, in percent."""
    alt = "; ".join(
        f"{curve.name}: {_end_text(curve.values[:, :1])} to {_end_text(curve.values)}" for curve in curves
    )
    return _curve_panel(
        title, curves, positions, high, (x_title, f"From the first value to the last: {alt}.")
    )


def _curve_panel(
    title: str, curves: Sequence[Curve], positions: Sequence[float], high: float, texts: tuple[str, str]
) -> Panel:
    """The chart of `line_panel` and `value_panel`; `texts` are the title of the axis and the description."""
    width, height = 260.0, 178.0
    x_title, alt = texts
    last = positions[-1] if len(positions) > 1 else positions[0] + 1
    across, up = Axis(positions[0], last, 40, width - 12), Axis(0, high, height - 40, 14)
    shapes = _horizontal_grid(across, up, high) + _position_ticks(across, positions, height - 24)
    shapes.append(
        Shape("text", "tick", (across.start + across.end) / 2, height - 7, text=x_title, anchor="middle")
    )
    for curve in curves:
        shapes += _curve_shapes(curve, across, up, positions, x_title)
    return Panel(title, f"{title}. {alt}", width, height, shapes)


def interval_panel(
    title: str, rows: Sequence[tuple[str, Sequence[Whisker]]], lines: Sequence[Whisker]
) -> Panel:
    """Means with intervals, one row a label, with vertical lines for the references."""
    width, row_height, top, left = 440.0, 30.0, 14.0, 142.0
    bottom = top + row_height * len(rows)
    whiskers = [whisker for _, row in rows for whisker in row]
    ends = [v for w in [*whiskers, *lines] for v in (w.mean, w.low, w.high) if v is not None]
    low, high = round_range(ends)
    low, high = max(low, -0.6), min(high, 1.0) if max((w.mean for w in whiskers), default=0) <= 1 else high
    across = Axis(low, high, left, width - 14)
    shapes = _vertical_grid(across, low, high, top, bottom)
    for line in lines:
        x = across(min(max(line.mean, low), high))
        shapes.append(Shape("path", line.style, d=f"M{x:.1f} {top:.1f}V{bottom:.1f}", text=_value_text(line)))
    for place, (label, row) in enumerate(rows):
        middle = top + row_height * (place + 0.5)
        shapes += _label_shapes(label, left - 10, middle + 4)
        for offset, whisker in enumerate(row):
            y = middle + (offset - (len(row) - 1) / 2) * 9
            shapes += _whisker_shapes(whisker, across, y, (low, high))
    said = "; ".join(f"{label}: {', '.join(map(_value_text, row))}" for label, row in rows)
    return Panel(title, f"{title}. {said}.", width, bottom + 30, shapes)


def heat_panel(title: str, matrix: np.ndarray, tasks: Sequence[str]) -> Panel:
    """An accuracy matrix: rows after each stage, columns on each task, darker for more."""
    size = len(matrix)
    left, top, side = 26.0, 20.0, 208.0
    step = side / size
    shapes = [
        Shape("text", "tick", left + side / 2, 12, text="on task", anchor="middle"),
        Shape("text", "tick turned", -(top + side / 2), 15, text="after stage", anchor="middle"),
    ]
    for t in range(size):
        for k in range(size):
            shapes += _heat_cell(matrix[t, k], t, k, tasks, (left + k * step, top + t * step, step))
    final = ", ".join(
        f"{task} {'not measured' if np.isnan(value) else f'{value * 100:.0f} %'}"
        for task, value in zip(tasks, matrix[-1], strict=True)
    )
    return Panel(title, f"{title}: after the last stage {final}.", left + side + 6, top + side + 6, shapes)


def block_panel(
    title: str,
    values: np.ndarray,
    blocks: Sequence[str],
    tasks: Sequence[str],
    *,
    heading: str = "on task",
    is_named: bool = False,
) -> Panel:
    """Shares from 0 to 1, [blocks, tasks]: rows are blocks, columns tasks, darker for more.

    Columns have numbers, or their names where `is_named`; those may stand for something else than tasks.
    """
    left, top, width, height = 96.0, 30.0, 208.0 / max(len(tasks), 1), 26.0
    middle = left + 104.0
    shapes = [Shape("text", "tick", middle, 11, text=heading, anchor="middle")]
    every = -(-len(tasks) // 10)
    for place in range(0, len(tasks), every):
        x = left + (place + 0.5) * width
        name = tasks[place] if is_named else str(place + 1)
        shapes.append(Shape("text", "tick", x, 24, text=name, anchor="middle"))
    for row, block in enumerate(blocks):
        y = top + row * height
        shapes.append(Shape("text", "tick", left - 7, y + 16, text=_end_of(block), anchor="end"))
        for column, task in enumerate(tasks):
            box = (left + column * width, y, width, height)
            where = f"{block}, {task}" if is_named else f"{block}, on {task}"
            shapes += _shaded(values[row, column], where, box, has_text=len(tasks) <= 8)
    spans = [f"{task} {_range_text(values[:, column])}" for column, task in enumerate(tasks)]
    alt = f"{title}. From the least to the most of all blocks: {'; '.join(spans)}."
    return Panel(title, alt, left + 214, top + len(blocks) * height + 6, shapes)


def _end_of(block: str) -> str:
    """The end of a long name."""
    return block if len(block) <= 15 else f"…{block[-14:]}"


def _range_text(values: np.ndarray) -> str:
    known = values[~np.isnan(values)]
    return f"{known.min() * 100:.0f} to {known.max() * 100:.0f} %" if known.size else "not measured"


def _heat_cell(
    value: float, t: int, k: int, tasks: Sequence[str], box: tuple[float, float, float]
) -> list[Shape]:
    x, y, step = box
    where = f"after stage {t + 1}, on {tasks[k]}"
    more = "" if k <= t else " unseen"
    return _shaded(value, where, (x, y, step, step), has_text=len(tasks) <= 8, more=more)


def _shaded(
    value: float, where: str, box: tuple[float, float, float, float], *, has_text: bool, more: str = ""
) -> list[Shape]:
    """One cell of a heat map; a value outside of 0 to 1 has the shade of that end."""
    x, y, width, height = box[0], box[1], box[2] - 1.5, box[3] - 1.5
    if np.isnan(value):
        return [Shape("box", "heat-none", x, y, width, height, text=f"{where}: not measured")]
    shade = round(float(min(max(value, 0.0), 1.0)) * (SHADES - 1))
    shapes = [
        Shape("box", f"heat-{shade}{more}", x, y, width, height, text=f"{where}: {number(value * 100)} %")
    ]
    if has_text:
        middle = (x + width / 2, y + height / 2 + 4)
        text = _fitting(number(value * 100, 0), width)
        shapes.append(Shape("text", f"on-heat-{shade}{more}", *middle, text=text, anchor="middle"))
    return shapes


def _fitting(text: str, width: float) -> str:
    """A number, or what it is below where it is too long for the width."""
    is_long = text.startswith("−") and 8 * len(text) + 2 > width
    return "<0" if is_long else text


def _horizontal_grid(across: Axis, up: Axis, high: float) -> list[Shape]:
    shapes = []
    for value in (0.0, 0.5, 1.0, 1.5, 2.0):
        if value > high + 1e-9:
            break
        y = up(value)
        shapes.append(Shape("path", "grid", d=f"M{across.start:.1f} {y:.1f}H{across.end:.1f}"))
        shapes.append(Shape("text", "tick", across.start - 7, y + 4, text=f"{value * 100:.0f}", anchor="end"))
    return shapes


def _position_ticks(across: Axis, positions: Sequence[float], y: float) -> list[Shape]:
    every = -(-len(positions) // 10)
    return [
        Shape("text", "tick", across(position), y, text=f"{position:g}", anchor="middle")
        for position in positions[::every]
    ]


def _vertical_grid(across: Axis, low: float, high: float, top: float, bottom: float) -> list[Shape]:
    spacing = next(s for s in (0.05, 0.1, 0.2, 0.5, 1.0, 5.0) if (high - low) / s <= 6.001)
    shapes = []
    for place in range(round(np.ceil(low / spacing - 1e-9)), round(np.floor(high / spacing + 1e-9)) + 1):
        value = place * spacing
        x, style = across(value), "grid zero" if place == 0 else "grid"
        shapes.append(Shape("path", style, d=f"M{x:.1f} {top:.1f}V{bottom:.1f}"))
        shapes.append(Shape("text", "tick", x, bottom + 17, text=number(value * 100, 0), anchor="middle"))
    return shapes


def _curve_shapes(
    curve: Curve, across: Axis, up: Axis, positions: Sequence[float], x_title: str
) -> list[Shape]:
    shapes = []
    known = ~np.isnan(curve.values).any(axis=0)
    places = np.flatnonzero(known)
    if places.size == 0:
        return shapes
    mean, low, high = curve.values.mean(axis=0), curve.values.min(axis=0), curve.values.max(axis=0)
    for run in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1):
        if curve.has_band and len(curve.values) > 1 and len(run) > 1:
            there = [(across(positions[s]), up(high[s])) for s in run]
            back = [(across(positions[s]), up(low[s])) for s in run[::-1]]
            shapes.append(Shape("path", f"band {curve.style}", d=_path(there + back) + "Z"))
        line = [(across(positions[s]), up(mean[s])) for s in run]
        shapes.append(Shape("path", f"line {curve.style}", d=_path(line)))
    if "quiet" in curve.style:
        return shapes
    for s in places:
        tip = f"{curve.name}, {x_title} {positions[s]:g}: {mean[s] * 100:.1f} %"
        shapes.append(_marker(curve.style, across(positions[s]), up(mean[s]), tip))
    return shapes


def _whisker_shapes(whisker: Whisker, across: Axis, y: float, ends: tuple[float, float]) -> list[Shape]:
    shapes = []
    if whisker.low is not None and whisker.high is not None:
        low, high = (across(min(max(value, ends[0]), ends[1])) for value in (whisker.low, whisker.high))
        shapes.append(Shape("path", f"line {whisker.style}", d=f"M{low:.1f} {y:.1f}H{high:.1f}"))
    x = across(min(max(whisker.mean, ends[0]), ends[1]))
    return [*shapes, _marker(whisker.style, x, y, _value_text(whisker))]


def _marker(style: str, x: float, y: float, text: str) -> Shape:
    """A circle, a diamond for parallel experts, a square for those from merges."""
    if "merged" in style:
        half = _SQUARE / 2
        return Shape("box", f"dot {style}", x - half, y - half, width=_SQUARE, height=_SQUARE, text=text)
    return Shape("diamond" if "parallel" in style else "circle", f"dot {style}", x, y, text=text)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _value_text(whisker: Whisker) -> str:
    span = ""
    if whisker.low is not None and whisker.high is not None:
        span = f", 95 % interval {number(whisker.low * 100)} to {number(whisker.high * 100)}"
    return f"{whisker.name} {number(whisker.mean * 100)} %{span}"


def _end_text(values: np.ndarray) -> str:
    last = values[:, -1]
    return "not measured" if np.isnan(last).any() else f"{last.mean() * 100:.0f} %"


def _label_shapes(label: str, x: float, y: float) -> list[Shape]:
    """A label in at most two lines."""
    lines = wrap(label, 20)
    if len(lines) > 2:
        lines = [lines[0], f"{lines[1][:19]}…"]
    top = y - 6 * (len(lines) - 1)
    return [
        Shape("text", "label", x, top + 13 * place, text=line, anchor="end")
        for place, line in enumerate(lines)
    ]
