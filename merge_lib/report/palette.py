"""The colours of the report, safe for the colour-blind: blue against orange (Okabe & Ito), blue for heat.

No two things are told apart by colour alone: regimes also differ in their marker, lines in their dashes.
"""

from dataclasses import dataclass

from merge_lib.report.charts import SHADES


@dataclass(frozen=True)
class Theme:
    """Colours of one appearance."""

    paper: str
    card: str
    ink: str
    muted: str
    line: str
    accent: str
    tint: str  # behind a cell that is best
    sequential: str
    parallel: str
    merged: str
    expert: str
    joint: str
    heat: tuple[str, str, str]  # ends and middle of the ramp
    both: tuple[str, str, str]  # of the ramp with a neutral middle: blue for good, orange for bad


LIGHT = Theme(
    paper="#fbfbf9",
    card="#ffffff",
    ink="#1c2430",
    muted="#5b6573",
    line="#e2e5e9",
    accent="#0b5c9c",
    tint="#e3f0fa",
    sequential="#0072b2",
    parallel="#d55e00",
    merged="#b0508c",
    expert="#00795a",
    joint="#8a4f86",
    heat=("#f1f4f7", "#7fb1d6", "#0a3f70"),
    both=("#1f78b4", "#f4f5f6", "#d55e00"),
)
DARK = Theme(
    paper="#11151b",
    card="#181d25",
    ink="#e7eaee",
    muted="#9aa5b3",
    line="#2b323c",
    accent="#7cc0f2",
    tint="#17334a",
    sequential="#56b4e9",
    parallel="#f0a13a",
    merged="#e58fc4",
    expert="#3cc79d",
    joint="#d39ccf",
    heat=("#1f2630", "#2a6593", "#a5d8fb"),
    both=("#4fa3dc", "#232a34", "#e0782a"),
)


def heat_ramp(theme: Theme) -> list[tuple[str, str]]:
    """Fill and text colour of every step of the heat map, from 0 to 1."""
    return _ramp(theme.heat)


def both_ramp(theme: Theme) -> list[tuple[str, str]]:
    """Fill and text colour of every step of a map with a neutral middle."""
    return _ramp(theme.both)


def _ramp(anchors: tuple[str, str, str]) -> list[tuple[str, str]]:
    fills = [_mix(anchors, step / (SHADES - 1)) for step in range(SHADES)]
    return [(fill, "#000000" if _luminance(fill) > 0.179 else "#ffffff") for fill in fills]


def _mix(anchors: tuple[str, str, str], share: float) -> str:
    low, high = (anchors[0], anchors[1]) if share <= 0.5 else (anchors[1], anchors[2])
    part = share * 2 if share <= 0.5 else share * 2 - 1
    mixed = (round(a + (b - a) * part) for a, b in zip(_channels(low), _channels(high), strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (channel / 255 for channel in _channels(colour))
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
