"""A conflict map as a panel: blocks down, pairs of experts across."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from merge_lib.report.aggregate import number
from merge_lib.report.charts import SHADES
from merge_lib.report.layout import Panel, Shape
from merge_lib.report.surface_panels import names_in_lines

_LEFT, _TOP, _HEIGHT, _ACROSS = 100.0, 34.0, 24.0, 310.0
_MOST_NUMBERS = 11  # columns in which numbers find room


@dataclass(frozen=True)
class Scale:
    """How values become colours.

    Attributes:
        middle: what is drawn neutral; None where colours go from pale to dark.
        reach: of the values: middle ± reach, or 0 to reach.
        is_high_good: blue is for what is above the middle, orange for what is below; else the other way round.
    """

    middle: float | None
    reach: float
    is_high_good: bool = False

    @classmethod
    def around(cls, values: np.ndarray, middle: float, *, is_high_good: bool) -> "Scale":
        """Two colours on both sides of a middle, as far as the values go, in tenths."""
        known = np.abs(values[np.isfinite(values)] - middle)
        return cls(middle, _tenths(float(known.max(initial=0.0))), is_high_good)

    @classmethod
    def from_zero(cls, values: np.ndarray) -> "Scale":
        """From pale to dark, as far as the values go, in tenths."""
        return cls(None, _tenths(float(values[np.isfinite(values)].max(initial=0.0))))

    @property
    def ends(self) -> tuple[float, float]:
        """The values of the first and the last colour."""
        return (
            (0.0, self.reach) if self.middle is None else (self.middle - self.reach, self.middle + self.reach)
        )

    def style(self, value: float) -> str:
        """The class of a value's colour."""
        low, high = self.ends
        return self.colour(round(min(max((value - low) / (high - low), 0.0), 1.0) * (SHADES - 1)))

    def colour(self, step: int) -> str:
        """The class of a step from the lowest value, 0, to the highest."""
        if self.middle is None:
            return f"heat-{step}"
        return f"both-{SHADES - 1 - step if self.is_high_good else step}"


def conflict_panel(
    title: str,
    values: np.ndarray,
    blocks: Sequence[str],
    columns: Sequence[tuple[str, str]],
    scale: Scale,
    told: Sequence[str] = (),
) -> Panel:
    """One measure, [blocks, columns], NaN where undefined; the last row stands apart.

    Args:
        title: of the panel.
        values: shares or cosines; printed in hundredths.
        blocks: names of the rows, the whole model last.
        columns: heading and full name of each.
        scale: of the colours.
        told: what the headings stand for, below the map.
    """
    width = min(_ACROSS / max(len(columns), 1), 60.0)
    has_text = len(columns) <= _MOST_NUMBERS
    every = -(-len(columns) // _MOST_NUMBERS)
    shapes = []
    for place in range(0, len(columns), every):
        x = _LEFT + (place + 0.5) * width
        shapes.append(Shape("text", "tick", x, 26, text=columns[place][0], anchor="middle"))
    for row, block in enumerate(blocks):
        y = _TOP + row * _HEIGHT + (8 if row == len(blocks) - 1 and row else 0)
        label = block if len(block) <= 15 else f"…{block[-14:]}"
        shapes.append(Shape("text", "tick", _LEFT - 7, y + 15, text=label, anchor="end"))
        for column, (_, name) in enumerate(columns):
            box = (_LEFT + column * width, y, width - 1.5, _HEIGHT - 1.5)
            shapes += _cell(float(values[row, column]), f"{block}, {name}", box, scale, has_text=has_text)
    bottom = _TOP + len(blocks) * _HEIGHT + 8
    shapes += _key(scale, bottom + 10)
    said = "; ".join(
        f"{name} {_hundredths(values[-1, column])}" for column, (_, name) in enumerate(columns[:10])
    )
    lines = names_in_lines(told, 62)
    shapes += [
        Shape("text", "tick", _LEFT, bottom + 54 + 15 * place, text=line) for place, line in enumerate(lines)
    ]
    height = bottom + 34 + (10 if lines else 0) + 15 * len(lines)
    return Panel(title, f"{title}. In the whole model: {said}.", _LEFT + _ACROSS + 6, height, shapes)


def _cell(
    value: float, where: str, box: tuple[float, float, float, float], scale: Scale, *, has_text: bool
) -> list[Shape]:
    if np.isnan(value):
        return [Shape("box", "heat-none", *box, text=f"{where}: undefined")]
    style = scale.style(value)
    shapes = [Shape("box", style, *box, text=f"{where}: {_hundredths(value, 1)}")]
    if has_text:
        x, y, width, _ = box
        shapes.append(
            Shape(
                "text", f"on-{style} small", x + width / 2, y + 15, text=_hundredths(value), anchor="middle"
            )
        )
    return shapes


def _key(scale: Scale, y: float) -> list[Shape]:
    """The colours with the values of both ends, and of the middle."""
    low, high = scale.ends
    side = 14.0
    shapes = [
        Shape("path", scale.colour(step), d=f"M{_LEFT + step * side:.1f} {y:.1f}h{side:.1f}v9h{-side:.1f}Z")
        for step in range(SHADES)
    ]
    ends = [(low, _LEFT, "start"), (high, _LEFT + SHADES * side, "end")]
    ends += [] if scale.middle is None else [(scale.middle, _LEFT + SHADES * side / 2, "middle")]
    return shapes + [Shape("text", "tick", x, y + 22, text=_hundredths(v), anchor=a) for v, x, a in ends]  # type: ignore[arg-type]


def _hundredths(value: float, digits: int = 0) -> str:
    return "undefined" if np.isnan(value) else number(value * 100, digits)


def _tenths(value: float) -> float:
    return max(float(np.ceil(value * 10 - 1e-9) / 10), 0.1)
