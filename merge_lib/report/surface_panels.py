"""A loss surface as a panel: bands of equal loss, the checkpoints marked on it, a scale beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

import numpy as np

from merge_lib.maps import LossSurface, Mark
from merge_lib.report.aggregate import number
from merge_lib.report.charts import SHADES, Axis
from merge_lib.report.contours import bands, loss_levels, round_steps, share_levels
from merge_lib.report.layout import Panel, Shape

_SIDE = 300.0
_LEFT, _TOP, _WIDTH = 48.0, 8.0, 420.0
_NEAR = 7.0  # pixels: marks that lie closer share one label
_LETTER = 6.4  # width of a letter of a label
_SPOTS = (
    (9, 4, "start"),
    (-9, 4, "end"),
    (0, -9, "middle"),
    (0, 17, "middle"),
    (9, -8, "start"),
    (9, 16, "start"),
)


@dataclass(frozen=True)
class Quantity:
    """What a surface shows.

    Attributes:
        values: [k, k], rows by y.
        levels: between the bands, from the lowest.
        is_high_good: whether the higher is the better, and so the darker.
    """

    name: str
    values: np.ndarray
    levels: list[float]
    is_high_good: bool

    @classmethod
    def loss(cls, surface: LossSurface, task: str) -> "Quantity":
        """The loss on a task, in nats."""
        values = np.array(surface.loss_on(task))
        return cls("loss", values, loss_levels(values), is_high_good=False)

    @classmethod
    def accuracy(cls, surface: LossSurface, task: str) -> "Quantity":
        """The accuracy on a task."""
        values = np.array(surface.accuracy_on(task))
        return cls("accuracy", values, share_levels(values), is_high_good=True)

    def text(self, value: float) -> str:
        """A value in print."""
        return f"{number(value * 100, 0)} %" if self.is_high_good else plain(value)

    def shade(self, band: int) -> int:
        """The step of the ramp for a band, 0 the lowest: the darker the better."""
        last = max(len(self.levels), 1)
        return round((SHADES - 1) * (band if self.is_high_good else last - band) / last)


def plain(value: float) -> str:
    """A number with three digits that count, as short as it can be."""
    return f"{value:.3g}".replace("-", "−")


def surface_panel(title: str, surface: LossSurface, quantity: Quantity) -> Panel:
    """The map of one quantity; merges are numbered, and named below it."""
    across = Axis(surface.xs[0], surface.xs[-1], _LEFT, _LEFT + _SIDE)
    up = Axis(surface.ys[0], surface.ys[-1], _TOP + _SIDE, _TOP)
    shapes = [_rectangle(quantity.shade(0), _LEFT, _TOP, _SIDE, _SIDE)]
    paths = bands(quantity.values, [*map(across, surface.xs)], [*map(up, surface.ys)], quantity.levels)
    for band, path in enumerate(paths, 1):
        tip = f"{quantity.name} from {quantity.text(quantity.levels[band - 1])}"
        shapes.append(Shape("path", f"contour heat-{quantity.shade(band)}", d=path, text=tip))
    shapes += _axes(surface, across, up)
    shapes += _scale(quantity)
    inside = [mark for mark in surface.marks if _is_inside(mark, surface)]
    shapes += _triangle(inside, across, up)
    merges = [mark.name for mark in surface.marks if mark.kind == "merge"]
    shapes += _marks(inside, merges, across, up, quantity)
    names = [f"{place} {name}" for place, name in enumerate(merges, 1)]
    lines = names_in_lines(names, 62)
    shapes += [
        Shape("text", "tick", _LEFT, _TOP + _SIDE + 56 + 15 * place, text=line)
        for place, line in enumerate(lines)
    ]
    return Panel(title, _alt(title, surface, quantity), _WIDTH, _TOP + _SIDE + 46 + 15 * len(lines), shapes)


def _is_inside(mark: Mark, surface: LossSurface) -> bool:
    return surface.xs[0] <= mark.x <= surface.xs[-1] and surface.ys[0] <= mark.y <= surface.ys[-1]


def _axes(surface: LossSurface, across: Axis, up: Axis) -> list[Shape]:
    """Ticks in units of weights; the same spacing on both sides."""
    shapes = []
    bottom = _TOP + _SIDE
    for value in round_steps(across.low, across.high, 5):
        shapes.append(Shape("text", "tick", across(value), bottom + 16, text=plain(value), anchor="middle"))
    for value in round_steps(up.low, up.high, 5):
        shapes.append(Shape("text", "tick", _LEFT - 6, up(value) + 4, text=plain(value), anchor="end"))
    first = next((mark.name for mark in surface.marks if mark.kind == "expert"), "the first expert")
    middle = _LEFT + _SIDE / 2
    shapes.append(
        Shape("text", "tick", middle, bottom + 34, text=f"along the task vector of {first}", anchor="middle")
    )
    shapes.append(Shape("text", "tick turned", -(_TOP + _SIDE / 2), 12, text="across it", anchor="middle"))
    return shapes


def _scale(quantity: Quantity) -> list[Shape]:
    """The bands beside the map, with the levels between them."""
    left, count = _LEFT + _SIDE + 14, len(quantity.levels) + 1
    height = min(_SIDE / count, 30.0)
    top = _TOP + (_SIDE - height * count) / 2
    shapes = [Shape("text", "tick", left, top - 8, text=quantity.name)]
    for band in range(count):
        y = top + height * (count - 1 - band)
        shapes.append(_rectangle(quantity.shade(band), left, y, 13, height))
        if band:
            text = quantity.text(quantity.levels[band - 1])
            shapes.append(Shape("text", "tick", left + 18, y + height + 4, text=text))
    return shapes


def _rectangle(shade: int, x: float, y: float, width: float, height: float) -> Shape:
    """With sharp corners, so that neighbours touch."""
    return Shape("path", f"heat-{shade}", d=f"M{x:.1f} {y:.1f}h{width:.1f}v{height:.1f}h{-width:.1f}Z")


def _triangle(marks: Sequence[Mark], across: Axis, up: Axis) -> list[Shape]:
    """From the base to each expert."""
    base = next((mark for mark in marks if mark.kind == "base"), None)
    if base is None:
        return []
    start = f"M{across(base.x):.1f} {up(base.y):.1f}"
    experts = [mark for mark in marks if mark.kind == "expert"]
    return [Shape("path", "edge", d=f"{start}L{across(m.x):.1f} {up(m.y):.1f}") for m in experts]


def _marks(
    marks: Sequence[Mark], merges: Sequence[str], across: Axis, up: Axis, quantity: Quantity
) -> list[Shape]:
    """Symbols, those of base and experts on top, then labels where there is room for them."""
    ordered = sorted(marks, key=lambda mark: ("merge", "expert", "base").index(mark.kind))
    places = [(across(mark.x), up(mark.y)) for mark in ordered]
    shapes = [_symbol(mark, place, quantity) for mark, place in zip(ordered, places, strict=True)]
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    for label, (x, y), weight in _labels(ordered, places, merges):
        width = _LETTER * len(label)
        dx, dy, anchor = min(_SPOTS, key=lambda spot: _crowding(_box(x, y, spot, width), taken))
        taken.append(_box(x, y, (dx, dy, anchor), width))
        shapes.append(Shape("text", f"on-map {weight}", x + dx, y + dy, text=label, anchor=anchor))  # type: ignore[arg-type]
    return shapes


def _symbol(mark: Mark, place: tuple[float, float], quantity: Quantity) -> Shape:
    x, y = place
    value = mark.accuracy if quantity.is_high_good else mark.loss
    said = "" if value is None else f"; its own mean {quantity.name} {quantity.text(value)}"
    tip = f"{mark.name}: {plain(mark.distance)} from the plane{said}"
    if mark.kind == "merge":
        return Shape("box", "mark merge", x - 3.4, y - 3.4, 6.8, 6.8, text=tip)
    return Shape("diamond" if mark.kind == "expert" else "circle", f"mark {mark.kind}", x, y, text=tip)


def _labels(
    marks: Sequence[Mark], places: Sequence[tuple[float, float]], merges: Sequence[str]
) -> list[tuple[str, tuple[float, float], str]]:
    """Names of base and experts, then the numbers of the merges, those that lie together in one label."""
    named = [
        (mark.name, place, "strong")
        for mark, place in zip(marks, places, strict=True)
        if mark.kind != "merge"
    ]
    groups: list[tuple[tuple[float, float], list[int]]] = []
    for mark, place in zip(marks, places, strict=True):
        if mark.kind == "merge":
            near = [g for g in groups if np.hypot(g[0][0] - place[0], g[0][1] - place[1]) < _NEAR]
            members = near[0][1] if near else []
            if not near:
                groups.append((place, members))
            members.append(merges.index(mark.name) + 1)
    return [*named, *((_numbers(sorted(members)), place, "") for place, members in groups)]


def _numbers(values: Sequence[int]) -> str:
    """1, 2, 3, 5 as 1–3, 5."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(
        str(run[0]) if len(run) == 1 else f"{run[0]}{'–' if len(run) > 2 else ', '}{run[-1]}" for run in runs
    )


def _box(
    x: float, y: float, spot: tuple[float, float, str], width: float
) -> tuple[float, float, float, float]:
    dx, dy, anchor = spot
    start = x + dx - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
    return start, y + dy - 10, start + width, y + dy + 3


def _crowding(
    box: tuple[float, float, float, float], taken: Sequence[tuple[float, float, float, float]]
) -> float:
    """The area that others cover of a box, and much more for what leaves the map."""
    covered = sum(
        max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
        * max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
        for other in taken
    )
    out = max(0.0, _LEFT - box[0]) + max(0.0, box[2] - _LEFT - _SIDE)
    out += max(0.0, _TOP - box[1]) + max(0.0, box[3] - _TOP - _SIDE)
    return covered + 1000 * out


def names_in_lines(names: Sequence[str], letters: int) -> list[str]:
    """Names in lines, none broken."""
    joined = " · ".join(name.replace(" ", "\u00a0") for name in names)
    return [
        line.rstrip(" ·") for line in wrap(joined, letters, break_long_words=False, break_on_hyphens=False)
    ]


def _alt(title: str, surface: LossSurface, quantity: Quantity) -> str:
    values = quantity.values[np.isfinite(quantity.values)]
    span = (
        f"{quantity.name} from {quantity.text(float(values.min()))} to {quantity.text(float(values.max()))}"
    )
    reached = [
        f"{mark.name} {quantity.text(value)}"
        for mark in surface.marks
        if (value := mark.accuracy if quantity.is_high_good else mark.loss) is not None
    ]
    return f"{title}: {span} on the plane. Of the checkpoints themselves, mean over the tasks: {', '.join(reached)}."
