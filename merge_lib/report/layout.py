"""What a report is made of: sections of tables, figures and code, each free of any markup.

HTML and Markdown are printed from the same objects, so that both say the same.
"""

from dataclasses import dataclass, field
from typing import Literal

Mark = Literal["best", "tie"]
UNDEFINED = "–"


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str
    title: str | None = None  # what the cell says on hover: full digest, reason, corrected p
    mark: Mark | None = None
    is_code: bool = False


@dataclass(frozen=True)
class Column:
    """One column of a table; neighbours of one group share a heading."""

    title: str
    group: str | None = None
    note: str | None = None
    is_numeric: bool = True


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first column names the row."""

    caption: str
    columns: list[Column]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)
    is_folded: bool = False
    wraps: bool = False  # cells hold sentences

    @property
    def has_ties(self) -> bool:
        """Whether any cell is marked as not distinguishable from the best."""
        return any(cell.mark == "tie" for row in self.rows for cell in row)

    @property
    def groups(self) -> list[tuple[str | None, int]]:
        """Headings above the columns, each with the number of columns that it spans."""
        spans: list[tuple[str | None, int]] = []
        for column in self.columns:
            if spans and column.group is not None and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans

    @property
    def has_groups(self) -> bool:
        """Whether any column stands under a group heading."""
        return any(column.group for column in self.columns)


@dataclass(frozen=True)
class Shape:
    """A mark of a panel in the panel's own coordinates."""

    kind: Literal["path", "circle", "diamond", "box", "text", "image"]
    style: str  # class names, coloured by the style sheet in light and in dark
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0
    height: float = 0.0
    d: str = ""  # of a path; of an image its PNG in base64
    text: str = ""  # of a text; otherwise shown on hover
    anchor: Literal["start", "middle", "end"] = "start"


@dataclass(frozen=True)
class Panel:
    """One small chart."""

    title: str
    alt: str
    width: float
    height: float
    shapes: list[Shape]


@dataclass(frozen=True)
class Figure:
    """Panels of one kind with a shared legend; they reflow in HTML and stand in a grid in a file."""

    name: str  # of the file
    title: str
    alt: str
    caption: str
    panels: list[Panel]
    legend: list[tuple[str, str]]  # style of the swatch, text
    columns: int  # in the file

    @property
    def is_wide(self) -> bool:
        """Whether a panel needs half a page rather than a third."""
        return max(panel.width for panel in self.panels) > 320


@dataclass(frozen=True)
class Code:
    """Text to be read or copied as it is."""

    caption: str
    text: str
    language: str
    is_folded: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the report."""

    anchor: str
    title: str
    lead: list[str]
    blocks: list[Table | Figure | Code] = field(default_factory=list)


@dataclass(frozen=True)
class Finding:
    """One sentence of the headline: a question, what answers it, and how sure that is."""

    question: str
    answer: str
    value: str
    certainty: str
    basis: str  # how the certainty was computed


@dataclass(frozen=True)
class Report:
    """The whole report, ready to be printed in any format."""

    title: str
    description: str
    facts: list[tuple[str, str]]
    findings: list[Finding]
    sections: list[Section]

    @property
    def bases(self) -> list[str]:
        """How the headline's comparisons were computed, each way once."""
        return list(dict.fromkeys(finding.basis for finding in self.findings if finding.basis))

    @property
    def figures(self) -> list[Figure]:
        """All figures, in the order in which they appear."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Figure)]
