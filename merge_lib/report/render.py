"""Prints a composed report: HTML in one file, Markdown with its figures beside it, figures for a tracker."""

import re
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from merge_lib.report.layout import Cell, Figure, Report

if TYPE_CHECKING:
    from jinja2 import Environment

CODE = re.compile(r"`([^`]+)`")
LETTER_WIDTH = 7.0  # of the legend's type, on average
PANEL_GAP = 20.0


@dataclass(frozen=True)
class ReportFiles:
    """Where the report was written."""

    html: Path
    markdown: Path
    figures: tuple[Path, ...]  # SVG files, named as the figures


@dataclass(frozen=True)
class Sheet:
    """A figure laid out for a file of its own."""

    width: float
    height: float
    panels: list[tuple[float, float]]  # where each panel begins, its title above it
    legend: list[tuple[float, float]]


def write_html(report: Report, path: Path) -> Path:
    """One file that needs nothing else."""
    page = _environment(escaped=True).get_template("report.html.j2").render(report=report)
    path.write_text(page, encoding="utf-8")
    return path


def write_markdown(report: Report, path: Path, figures: dict[str, Path]) -> Path:
    """The same content as Markdown, with links to the figures beside it."""
    links = {name: figure.relative_to(path.parent).as_posix() for name, figure in figures.items()}
    page = _environment(escaped=False).get_template("report.md.j2").render(report=report, links=links)
    path.write_text(re.sub(r"\n{3,}", "\n\n", page).strip() + "\n", encoding="utf-8")
    return path


def write_figures(figures: list[Figure], folder: Path) -> dict[str, Path]:
    """Every figure as one SVG file, by the figure's name."""
    return {figure.name: write_figure(figure, folder / f"{figure.name}.svg") for figure in figures}


def write_figure(figure: Figure, path: Path) -> Path:
    """One SVG file that follows the reader's light or dark appearance."""
    path.parent.mkdir(parents=True, exist_ok=True)
    template = _environment(escaped=True).get_template("sheet.svg.j2")
    path.write_text(template.render(figure=figure, sheet=lay_out(figure)), encoding="utf-8")
    return path


def escape_markdown(text: str) -> str:
    """Text that Markdown prints as it is."""
    return _escaped(" ".join(text.split()))


def _escaped(text: str) -> str:
    escaped = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", text)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def prose_as_html(text: str) -> str:
    """Text with commands between backticks, as HTML."""
    return CODE.sub(r"<code>\1</code>", escape(text, quote=False))


def prose_as_markdown(text: str) -> str:
    """The same as Markdown, in which the commands stay as they are."""
    parts = CODE.split(" ".join(text.split()))  # every other one is a command
    return "".join(f"`{part}`" if at % 2 else _escaped(part) for at, part in enumerate(parts))


def markdown_cell(cell: Cell) -> str:
    """A cell of a Markdown table."""
    if cell.is_code and "`" not in cell.text:
        return f"`{cell.text.replace('|', '')}`"
    text = escape_markdown(cell.text)
    if cell.mark == "best":
        return f"**{text}**"
    return f"{text} ≈" if cell.mark == "tie" else text


def fence(text: str) -> str:
    """A fence longer than any run of backticks in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    return "`" * max(3, longest + 1)


@cache
def _environment(*, escaped: bool) -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from merge_lib.report import palette

    environment = Environment(
        loader=PackageLoader("merge_lib.report", "templates"),
        autoescape=escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": escape_markdown, "md_cell": markdown_cell, "fence": fence}
    environment.filters |= {"html_prose": prose_as_html, "md_prose": prose_as_markdown}
    environment.globals |= {
        "light": palette.LIGHT,
        "dark": palette.DARK,
        "heat_ramp": palette.heat_ramp,
        "both_ramp": palette.both_ramp,
        "kind_of": lambda block: type(block).__name__,
    }
    return environment


def lay_out(figure: Figure) -> Sheet:
    """Panels in rows of equal height, the legend below the title."""
    columns = min(figure.columns, len(figure.panels))
    wide = max(panel.width for panel in figure.panels)
    tall = max(panel.height for panel in figure.panels) + 24
    width = max(columns * (wide + PANEL_GAP) + PANEL_GAP, 460)
    legend, x, y = [], PANEL_GAP, 62.0
    for _, text in figure.legend:
        length = 40 + LETTER_WIDTH * len(text)
        if x + length > width and x > PANEL_GAP:
            x, y = PANEL_GAP, y + 22
        legend.append((x, y))
        x += length
    top = (y if figure.legend else 36.0) + 32
    places = [
        (PANEL_GAP + (place % columns) * (wide + PANEL_GAP), top + (place // columns) * (tall + PANEL_GAP))
        for place in range(len(figure.panels))
    ]
    rows = -(-len(figure.panels) // columns)
    return Sheet(width, top + rows * (tall + PANEL_GAP), places, legend)
