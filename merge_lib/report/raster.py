"""A figure of the report as PNG, for where no SVG is taken: the same shapes, in the light colours."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_lib.report.layout import Figure, Shape
from merge_lib.report.palette import LIGHT, both_ramp, heat_ramp
from merge_lib.report.render import lay_out

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DPI = 192  # two pixels for each of the drawing
_POINTS = 72 / 96  # of a pixel of the drawing
_DASHES = {
    "second": (0, (5, 4)),
    "quiet": (0, (1.5, 4)),
    "edge": (0, (3, 3)),
    "ref-base": (0, (2, 3)),
    "ref-seq": (0, (7, 4)),
    "ref-latest": (0, (2, 2, 7, 2)),
    "ref-joint": (0, (9, 3, 2, 3)),
}
_COLOURS = {
    **{name: getattr(LIGHT, name) for name in ("sequential", "parallel", "merged")},
    **{"ref-base": LIGHT.muted, "ref-expert": LIGHT.expert, "ref-joint": LIGHT.joint},
    **{"ref-seq": LIGHT.ink, "ref-latest": LIGHT.ink, "quiet": LIGHT.muted, "plain": LIGHT.muted},
}
_MARKS = {  # fill and line
    "base": (LIGHT.ink, LIGHT.card),
    "expert": (LIGHT.parallel, LIGHT.ink),
    "merge": (LIGHT.card, LIGHT.ink),
}
_SIZES = {"tick": 11.0, "label": 12.5, "on-map": 11.5, "small": 11.0}
_TOKEN = re.compile(r"([MLHVhvZ])|(-?\d+(?:\.\d+)?)")


def write_png(figure: Figure, path: Path) -> Path:
    """One PNG file, two pixels for each of the drawing's."""
    from matplotlib.figure import Figure as Sheet

    sheet = lay_out(figure)
    drawing = Sheet(figsize=(sheet.width / 96, sheet.height / 96), dpi=_DPI, facecolor=LIGHT.card)
    axes = drawing.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, sheet.width), ylim=(sheet.height, 0))
    axes.axis("off")
    _text(axes, (20, 32), figure.title, 17.0, weight="bold")
    for (style, text), (x, y) in zip(figure.legend, sheet.legend, strict=True):
        _draw(axes, _swatch(style), x, y - 10)
        _text(axes, (x + 31, y), text, 11.0, colour=LIGHT.muted)
    for panel, (x, y) in zip(figure.panels, sheet.panels, strict=True):
        _text(axes, (x + 2, y + 4), panel.title, 13.0, weight="bold")
        for shape in panel.shapes:
            _draw(axes, shape, x, y + 12)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, metadata={"Software": "mergeline"})
    return path


def _draw(axes: "Axes", shape: Shape, left: float, top: float) -> None:
    if shape.kind == "text":
        _draw_text(axes, shape, left, top)
        return
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    moves = {"path": _of_path, "box": _of_box, "circle": _of_circle, "diamond": _of_diamond}[shape.kind](
        shape
    )
    points = [(x + left, y + top) for _, x, y in moves]
    codes = [{"M": Outline.MOVETO, "L": Outline.LINETO, "Z": Outline.CLOSEPOLY}[code] for code, _, _ in moves]
    axes.add_patch(PathPatch(Outline(points, codes), **_paint(shape.style)))


def _of_path(shape: Shape) -> list[tuple[str, float, float]]:
    """Moves, with every line from a command made explicit."""
    tokens = iter(_TOKEN.findall(shape.d))
    moves: list[tuple[str, float, float]] = []
    code, x, y = "M", 0.0, 0.0
    for letter, number in tokens:
        if letter:
            code = letter
            if code == "Z":
                moves.append(("Z", x, y))
            continue
        x, y = _step(code, float(number), x, y, lambda: float(next(tokens)[1]))
        moves.append(("M" if code == "M" else "L", x, y))
    return moves


def _step(
    code: str, number: float, x: float, y: float, following: Callable[[], float]
) -> tuple[float, float]:
    """Where a command leads from a place."""
    if code in "ML":
        return number, following()
    if code in "Hh":
        return (number if code == "H" else x + number), y
    return x, (number if code == "V" else y + number)


def _polygon(points: list[tuple[float, float]]) -> list[tuple[str, float, float]]:
    return [("M" if not place else "L", x, y) for place, (x, y) in enumerate(points)] + [("Z", *points[0])]


def _of_box(shape: Shape) -> list[tuple[str, float, float]]:
    x, y, right, bottom = shape.x, shape.y, shape.x + shape.width, shape.y + shape.height
    return _polygon([(x, y), (right, y), (right, bottom), (x, bottom)])


def _of_circle(shape: Shape) -> list[tuple[str, float, float]]:
    from math import cos, pi, sin

    turns = [2 * pi * step / 40 for step in range(40)]
    return _polygon([(shape.x + 3.6 * cos(turn), shape.y + 3.6 * sin(turn)) for turn in turns])


def _of_diamond(shape: Shape) -> list[tuple[str, float, float]]:
    x, y = shape.x, shape.y
    return _polygon([(x, y - 4.6), (x + 4.6, y), (x, y + 4.6), (x - 4.6, y)])


def _paint(style: str) -> dict[str, Any]:
    """Fill and line of a style, as the style sheet has them."""
    words = style.split()
    colour = next((_COLOURS[word] for word in words if word in _COLOURS), LIGHT.ink)
    fill = next((ramp for word in words if (ramp := _ramp_colour(word)) is not None), None)
    if fill is not None:
        width = 0.5 if "contour" in words else 0.0
        return _filled(fill, LIGHT.card, width, alpha=0.38 if "unseen" in words else 1.0)
    is_second = "second" in words
    filled = {
        "band": _filled(colour, colour, 0.0, alpha=0.14),
        "dot": _filled(LIGHT.card if is_second else colour, colour, 1.1 * is_second),
        "mark": _filled(*_MARKS.get(words[-1], (colour, colour)), 1.0),
    }
    return filled.get(words[0]) or _drawn(words, colour)


def _filled(fill: str, line: str, width: float, *, alpha: float = 1.0) -> dict[str, Any]:
    return {"facecolor": fill, "edgecolor": line, "linewidth": width, "alpha": alpha}


def _drawn(words: Sequence[str], colour: str) -> dict[str, Any]:
    """A line without a fill."""
    lines = {"grid": LIGHT.muted if "zero" in words else LIGHT.line, "heat-none": LIGHT.line}
    width = {"grid": 1.0, "heat-none": 1.0, "edge": 1.0, "ref": 1.5}.get(words[0], 2.0)
    dashes = next((_DASHES[word] for word in words if word in _DASHES), "solid")
    drawn = {"edgecolor": lines.get(words[0], colour), "linewidth": width * _POINTS, "linestyle": dashes}
    return {"fill": False, **drawn}


def _ramp_colour(word: str, place: int = 0) -> str | None:
    """The fill (0) or the text colour (1) of a step of a ramp."""
    kind, _, step = word.rpartition("-")
    ramps = {"heat": heat_ramp, "both": both_ramp}
    return ramps[kind](LIGHT)[int(step)][place] if kind in ramps and step.isdecimal() else None


def _draw_text(axes: "Axes", shape: Shape, left: float, top: float) -> None:
    words = shape.style.split()
    ramp = next((c for word in words if (c := _ramp_colour(word.removeprefix("on-"), 1)) is not None), None)
    colour = ramp or (LIGHT.muted if words[0] in ("tick", "quiet-text") else LIGHT.ink)
    size = next((_SIZES[word] for word in reversed(words) if word in _SIZES), 13.5)
    is_turned = "turned" in words
    x, y = (shape.y, -shape.x) if is_turned else (shape.x, shape.y)
    weight = "bold" if "strong" in words else "normal"
    more: dict[str, Any] = {"ha": {"start": "left", "middle": "center", "end": "right"}[shape.anchor]}
    if is_turned:
        more |= {"rotation": 90, "rotation_mode": "anchor"}
    if "on-map" in words:
        more |= {"path_effects": _halo()}
    _text(axes, (left + x, top + y), shape.text, size, colour=colour, weight=weight, **more)


def _halo() -> list[Any]:
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=3 * _POINTS, foreground=LIGHT.card)]


def _text(
    axes: "Axes",
    place: tuple[float, float],
    text: str,
    size: float,
    *,
    colour: str = LIGHT.ink,
    **more: Any,
) -> None:
    axes.text(*place, text, fontsize=size * _POINTS, color=colour, va="baseline", parse_math=False, **more)


def _swatch(style: str) -> Shape:
    """What stands for a style in the legend: its mark, or its line."""
    marks = {
        "mark-base": Shape("circle", "mark base", 13, 6),
        "mark-expert": Shape("diamond", "mark expert", 13, 6),
        "mark-merge": Shape("box", "mark merge", 9.6, 2.6, 6.8, 6.8),
    }
    words = {"line-solid": "line plain", "line-dashed": "line plain second", "line-quiet": "line quiet"}
    known = words.get(
        style, f"line {style}" if style in ("sequential", "parallel", "merged") else f"ref {style}"
    )
    return marks.get(style) or Shape("path", known, d="M1 6H25")
