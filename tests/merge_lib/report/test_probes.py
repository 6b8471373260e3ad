"""The report's section on what is measured beside the tasks of the sequence."""

from dataclasses import replace

import pytest

from merge_lib.metrics import mtil_transfer
from merge_lib.report.aggregate import gather
from merge_lib.report.probes import section
from merge_lib.results import StudyResults

STAGES = {"base": (0.9,) * 5, "expert": (0.7, 0.6, 0.5, 0.6, 0.6), "MagMax": (0.8, 0.6, 0.5, 0.6, 0.7)}


@pytest.fixture
def probed(results) -> StudyResults:
    """Base, experts and merges were asked about capitals; MagMax lost some of them on the way."""
    rows = [
        replace(row, probes=[{"capitals": value + 0.01 * (row.seed or 0)} for value in _values(row)])
        if row.kind == "merge" or row.method in ("base", "expert")
        else row
        for row in results.rows
    ]
    return replace(results, rows=rows)


def _values(row):
    return STAGES.get(row.label, (0.9,) * 5)


def _by_name(table):
    return {(row[0].text, row[1].text): [cell.text for cell in row[2:]] for row in table.rows}


def test_each_row_has_its_last_and_lowest_value_and_its_change_against_the_base(probed):
    table, _ = section(gather(probed), probed.tasks).blocks
    found = _by_name(table)
    assert found["MagMax", "parallel"][:3] == ["71.0 ± 2.5", "51.0 ± 2.5", "−19.0 ± 2.5"]
    assert found["Base", "–"][:3] == ["90.0", "–", "–"]
    assert found["Each expert alone", "parallel"] == ["61.0 ± 2.5", "51.0 ± 2.5", "–", "–"]
    assert ("Joint training", "–") not in found  # was not asked


def test_accuracy_on_tasks_to_come_is_that_before_they_are_learned(probed):
    table, _ = section(gather(probed), probed.tasks).blocks
    base = next(row for row in probed.rows if row.method == "base")
    assert _by_name(table)["Base", "–"][-1] == f"{100 * mtil_transfer(base.accuracy):.1f}"


def test_each_method_has_a_chart_with_the_base_as_a_quiet_line(probed):
    _, figure = section(gather(probed), probed.tasks).blocks
    panel = next(panel for panel in figure.panels if panel.title == "MagMax")
    assert "capitals, base: 90 %" in panel.alt
    assert "capitals, sequential: 71 %" in panel.alt


def test_one_task_has_no_curves_and_nothing_to_come(make_results):
    alone = make_results(size=1)
    rows = [replace(row, probes=[{"capitals": 0.5}]) for row in alone.rows]
    (table,) = section(gather(replace(alone, rows=rows)), alone.tasks).blocks
    assert [column.title for column in table.columns] == ["Method", "Experts", "Last", "Lowest", "Change"]


def test_a_study_without_probes_has_no_such_section(results):
    assert section(gather(results), results.tasks) is None


def test_a_probe_that_some_row_was_not_asked_is_left_out(probed):
    rows = [replace(row, probes=[]) if row.label == "TIES" else row for row in probed.rows]
    assert section(gather(replace(probed, rows=rows)), probed.tasks) is None
