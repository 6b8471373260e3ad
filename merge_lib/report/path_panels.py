"""Loss or accuracy along a path of checkpoints as a panel."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from merge_lib.report.charts import Axis
from merge_lib.report.contours import round_steps
from merge_lib.report.layout import Panel, Shape
from merge_lib.report.surface_panels import plain

_LEFT, _TOP, _HEIGHT, _WIDTH = 46.0, 12.0, 168.0, 440.0
_LETTER = 6.2


@dataclass(frozen=True)
class Trace:
    """What was measured along one path, of one or more seeds.

    Attributes:
        style: of the line and its marks.
        values: [n, P], a row for each seed.
    """

    style: str
    name: str
    values: np.ndarray


def path_panel(
    title: str,
    traces: Sequence[Trace],
    positions: Sequence[float],
    waypoints: Sequence[str],
    highest: float | None = None,
) -> Panel:
    """The mean over the seeds with their range; a mark at each checkpoint.

    Args:
        title: of the panel.
        traces: along paths with the same positions.
        positions: of the points, [P]; whole numbers are checkpoints.
        waypoints: names of the checkpoints.
        highest: loss that is to be seen; None: the values are accuracies, in [0, 1].
    """
    in_percent = highest is None
    high = 1.0 if highest is None else _ceiling(highest)
    across = Axis(0, len(waypoints) - 1, _LEFT, _WIDTH - 16)
    up = Axis(0, high, _TOP + _HEIGHT, _TOP)
    shapes = _grid(across, up, high, in_percent=in_percent)
    shapes += _stations(waypoints, across)
    for trace in traces:
        shapes += _trace(trace, positions, waypoints, across, up, in_percent=in_percent)
    ends = "; ".join(
        f"{trace.name}: from {_text(trace.values[:, 0], in_percent)} to {_text(trace.values[:, -1], in_percent)}, "
        f"at most {_text(trace.values.max(axis=1), in_percent)}"
        for trace in traces
    )
    return Panel(
        title,
        f"{title}, from {waypoints[0]} to {waypoints[-1]}. {ends}.",
        _WIDTH,
        _TOP + _HEIGHT + 28,
        shapes,
    )


def _ceiling(value: float) -> float:
    """A round number at or a little above the value."""
    steps = round_steps(0.0, max(value, 1e-9), 4)
    step = steps[0] if steps else value
    return float(np.ceil(value / step - 1e-9) * step) or 1.0


def _grid(across: Axis, up: Axis, high: float, *, in_percent: bool) -> list[Shape]:
    values = [0.0, 0.5, 1.0] if in_percent else [0.0, *round_steps(0.0, high, 4), high]
    shapes = []
    for value in dict.fromkeys(values):
        text = f"{value * 100:.0f}" if in_percent else plain(value)
        shapes.append(Shape("path", "grid", d=f"M{across.start:.1f} {up(value):.1f}H{across.end:.1f}"))
        shapes.append(Shape("text", "tick", across.start - 7, up(value) + 4, text=text, anchor="end"))
    return shapes


def _stations(waypoints: Sequence[str], across: Axis) -> list[Shape]:
    """A line at each checkpoint, with its name, or its number where names find no room."""
    room = across(1) - across(0)
    has_room = max(map(len, waypoints)) * _LETTER < room
    shapes = []
    for place, name in enumerate(waypoints):
        x = across(place)
        shapes.append(Shape("path", "grid", d=f"M{x:.1f} {_TOP:.1f}V{_TOP + _HEIGHT:.1f}", text=name))
        label = name if has_room or not place else str(place)
        anchor = "end" if place == len(waypoints) - 1 and has_room else "start" if not place else "middle"
        x = min(x + (len(label) * _LETTER / 2 if anchor == "end" else 0), _WIDTH - 2)
        x = x if anchor != "start" else max(x - len(label) * _LETTER / 2, 2)
        shapes.append(Shape("text", "tick", x, _TOP + _HEIGHT + 18, text=label, anchor=anchor))  # type: ignore[arg-type]
    return shapes


def _trace(
    trace: Trace,
    positions: Sequence[float],
    waypoints: Sequence[str],
    across: Axis,
    up: Axis,
    *,
    in_percent: bool,
) -> list[Shape]:
    mean = trace.values.mean(axis=0)
    if not np.isfinite(mean).all():
        return []
    xs = [across(position) for position in positions]
    shapes = []
    if len(trace.values) > 1:
        low, high = trace.values.min(axis=0), trace.values.max(axis=0)
        outline = [*zip(xs, map(up, high), strict=True), *reversed([*zip(xs, map(up, low), strict=True)])]
        shapes.append(Shape("path", f"band {trace.style}", d=_line(outline) + "Z"))
    shapes.append(
        Shape("path", f"line {trace.style}", d=_line([*zip(xs, map(up, mean), strict=True)]), text=trace.name)
    )
    kind = {"parallel": "diamond", "merged": "box"}.get(trace.style, "circle")
    for place, position in enumerate(positions):
        if position == round(position):
            tip = f"{trace.name}, {waypoints[round(position)]}: {_text(trace.values[:, place], in_percent)}"
            x, y = xs[place], up(mean[place])
            box = (x - 3.4, y - 3.4, 6.8, 6.8) if kind == "box" else (x, y)
            shapes.append(Shape(kind, f"dot {trace.style}", *box, text=tip))  # type: ignore[arg-type]
    return shapes


def _text(values: np.ndarray, in_percent: bool) -> str:
    mean = float(values.mean())
    return f"{mean * 100:.0f} %" if in_percent else plain(mean)


def _line(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
