"""A study's results as something to show: HTML, Markdown, figures, rows for a terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from merge_lib.report.aggregate import gather
from merge_lib.report.figures import figures_of
from merge_lib.report.layout import Cell
from merge_lib.report.leaderboard import as_json
from merge_lib.report.render import ReportFiles, write_figures, write_html, write_markdown
from merge_lib.report.sections import compose
from merge_lib.report.summary import SummaryRow, summary_rows
from merge_lib.results import StudyResults

__all__ = [
    "SUMMARY_METRICS",
    "Cell",
    "ReportFiles",
    "SummaryRow",
    "build_report",
    "leaderboard",
    "save_figures",
    "summary_table",
]

SUMMARY_METRICS = (
    "average_accuracy",
    "worst_task_accuracy",
    "learning_accuracy",
    "retention_mean",
    "forgetting",
    "backward_transfer",
)


def build_report(results: StudyResults, out: Path) -> ReportFiles:
    """Write report.html (self-contained), report.md and figures/*.svg into a folder.

    Args:
        results: what a study measured.
        out: the folder; made if it is missing, older files of these names are replaced.

    Returns:
        The paths of all files.
    """
    report = compose(results)
    out.mkdir(parents=True, exist_ok=True)
    figures = write_figures(report.figures, out / "figures")
    html = write_html(report, out / "report.html")
    markdown = write_markdown(report, out / "report.md", figures)
    return ReportFiles(html, markdown, tuple(figures.values()))


def save_figures(results: StudyResults, out: Path) -> dict[str, Path]:
    """Write the figures alone, as SVG files; name -> path."""
    return write_figures(list(figures_of(gather(results), results.tasks).values()), out)


def leaderboard(results: StudyResults) -> list[dict[str, Any]]:
    """The leaderboard as plain values: one entry for each method and regime, board by board, the best first."""
    return as_json(results, gather(results))


def summary_table(results: StudyResults, metrics: Sequence[str] = SUMMARY_METRICS) -> list[SummaryRow]:
    """The rows of a plain summary, merges first; a cell holds its text (percent), mark and reason.

    Args:
        results: what a study measured.
        metrics: names of `merge_lib.metrics.describe`, one column each.

    Returns:
        One row for each method and regime, then the references.
    """
    return summary_rows(gather(results), metrics)
