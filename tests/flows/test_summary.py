"""The summary in the terminal: columns that fit, figures that are never cut."""

import pytest

from flows.summary import METRICS, columns_of, columns_within, title_of
from merge_lib.report import SummaryRow
from merge_lib.report.layout import Cell
from merge_lib.results import StudyResults


def row(
    label: str, *, kind: str = "merge", regime: str | None = "parallel", data: str = "none"
) -> SummaryRow:
    cells = {name: Cell("88.1 ± 1.5", mark="tie") for name in METRICS}
    costs = {"seconds": Cell("0.05"), "data": Cell(data)} if kind == "merge" else {}
    return SummaryRow(label, kind, regime, 3, cells, "One model" if kind == "merge" else "", costs)


BOTH = [row("ties"), row("ties", regime="sequential", data="labels"), row("Base", kind="base", regime=None)]


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (200, ["method", "regime", "accuracy", "worst task", "forgot", "s", "data"]),
        (80, ["method", "regime", "accuracy", "worst task", "forgot", "s"]),
        (74, ["method", "regime", "accuracy", "worst task", "forgot"]),
        (20, ["method", "regime"]),
    ],
)
def test_a_narrow_terminal_has_fewer_columns(width, headings):
    assert [column.heading for column in columns_within(width, columns_of(BOTH))] == headings


def test_figures_have_all_the_room_they_need():
    for column in columns_of(BOTH)[1:]:
        assert column.width == max(len(text) for text in (column.heading, *column.texts))
    assert columns_of(BOTH)[2].texts[0] == "≈ 88.1 ± 1.5"


def test_columns_that_say_nothing_are_left_out():
    headings = [column.heading for column in columns_of([row("ties"), row("average")])]
    assert headings == ["method", *METRICS.values(), "s"]


def test_long_names_of_methods_are_broken_and_references_do_not_widen_the_column():
    assert columns_of([row("a" * 40)])[0].width == 28
    assert columns_of([row("ties"), row("b" * 40, kind="sequential")])[0].width == 17


@pytest.mark.parametrize(
    ("scenario", "seeds", "title"),
    [("task-incremental", [0, 1], "lm: task-incremental, 1 task, 2 seeds"), ("", [0], "lm: 1 task, 1 seed")],
)
def test_a_workload_without_scenarios_names_none(scenario, seeds, title):
    told = StudyResults("lm", "r", "", "language", scenario, ["a"], seeds, [0.5], {}, {}, {}, "", 1.0, [])
    assert title_of(told) == title
