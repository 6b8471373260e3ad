"""The report of a sweep, from results like those of real studies."""

from dataclasses import replace

import numpy as np
import pytest

from merge_lib.claims import MergePath, judge
from merge_lib.report.render import write_html, write_markdown
from merge_lib.report.sweep import Sweep, best_of, compose_sweep
from merge_lib.sweep_table import MeasuredCell

POSITIONS = (0.0, 0.5, 1.0)


@pytest.fixture
def sweep(results) -> Sweep:
    """Three levels of a number, and one family of rows that `each` made."""
    cells = []
    for place, level in enumerate(("10", "2", "1")):
        rows = [
            replace(row, label=f"mix-{position}", method="linear", params={"position": position})
            for row in results.rows
            if row.label == "TIES"
            for position in POSITIONS
        ]
        entries = [{"label": f"mix-{p}", "family": "mix", "params": {"position": p}} for p in POSITIONS]
        config = {**results.config, "methods": entries, "workload": {"name": "vision"}}
        found = replace(results, run_id=f"run-{place}", rows=[*results.rows, *rows], config=config)
        cells.append(MeasuredCell({"epochs": level}, found))
    draw = np.random.default_rng(0)
    paths = [
        MergePath(
            "shared",
            "parallel",
            seed,
            POSITIONS,
            {"colour": tuple(0.9 + 0.01 * draw.random(3))},
            {"colour": 0},
        )
        for seed in range(5)
    ]
    reports = {cell.results.run_id: f"../../{cell.results.run_id}/report/report.html" for cell in cells}
    return Sweep(
        "cues", "cues-sweep-1", "What is kept?", "mergeline run x", 90.0, cells, judge(paths), reports
    )


def test_the_claims_lead(sweep):
    report = compose_sweep(sweep)
    assert [(finding.question, finding.answer) for finding in report.findings] == [
        ("Is shared knowledge kept?", "Confirmed here")
    ]
    (table,) = next(section for section in report.sections if section.anchor == "claims").blocks
    assert [row[-1].text for row in table.rows] == ["confirmed"]


def test_values_of_each_are_curves_over_them(sweep):
    (figure,) = next(section for section in compose_sweep(sweep).sections if section.anchor == "paths").blocks
    tasks = sweep.cells[0].results.tasks
    assert len(figure.panels) == len(tasks) * len(sweep.cells)
    assert figure.panels[0].title == f"{tasks[0]} · epochs = 10"
    ticks = [shape.text for shape in figure.panels[0].shapes if shape.style == "tick"]
    assert {"0", "0.5", "1", "mix: position"} <= set(ticks)


def test_an_axis_of_numbers_is_drawn_in_their_order(sweep):
    (figure,) = next(section for section in compose_sweep(sweep).sections if section.anchor == "axes").blocks
    panel = figure.panels[0]
    ticks = [
        (shape.x, shape.text)
        for shape in panel.shapes
        if shape.style == "tick" and shape.text in ("1", "2", "10")
    ]
    assert [text for _, text in sorted(ticks)] == ["1", "2", "10"]
    assert "of" in figure.caption
    assert len(figure.panels) == 24


def test_an_axis_of_names_is_not_drawn(sweep):
    named = [replace(cell, levels={"training": f"t{place}"}) for place, cell in enumerate(sweep.cells)]
    anchors = [section.anchor for section in compose_sweep(replace(sweep, cells=named)).sections]
    assert anchors == ["claims", "paths", "levels", "knowledge", "cells", "regimes", "runs"]


def test_levels_with_names_are_set_against_the_first(sweep):
    def worse(row):
        less = [[max(value - 0.1, 0.0) for value in stage] for stage in row.accuracy]
        lower = {**row.metrics, "average_accuracy": row.metrics["average_accuracy"] - 0.1 - 0.001 * row.seed}
        return replace(row, accuracy=less, metrics=lower)

    plain, stressed, same = (
        replace(cell, levels={"stress": level})
        for cell, level in zip(sweep.cells, ("plain", "noisy", "as-before"), strict=True)
    )
    rows = [worse(row) if row.kind == "merge" else row for row in stressed.results.rows]
    stressed = replace(stressed, results=replace(stressed.results, rows=rows))
    report = compose_sweep(replace(sweep, cells=[plain, stressed, same]))
    (table,) = next(section for section in report.sections if section.anchor == "levels").blocks
    assert table.caption == "stress: each level against plain"
    told = {
        row[0].text: {other[4].text for other in table.rows if other[0].text == row[0].text}
        for row in table.rows
    }
    assert told == {"noisy": {"worse"}, "as-before": {"not distinguishable"}}
    assert {row[3].text for row in table.rows if row[0].text == "as-before"} == {"0.0 ± 0.0"}


def test_every_cell_has_its_rows_and_its_run(sweep, tmp_path):
    report = compose_sweep(sweep)
    tables = {section.anchor: section.blocks[0] for section in report.sections}
    per_cell = len({(row.label, row.regime) for row in sweep.cells[0].results.rows if row.kind == "merge"})
    assert len(tables["cells"].rows) == 3 * per_cell
    assert [row[1].text for row in tables["runs"].rows] == ["run-0", "run-1", "run-2"]
    page = write_html(report, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "../../run-1/report/report.html" in page
    figures = {figure.name: tmp_path / f"{figure.name}.svg" for figure in report.figures}
    text = write_markdown(report, tmp_path / "report.md", figures).read_text(encoding="utf-8")
    assert "Is shared knowledge kept?" in text


def test_a_cell_is_told_by_its_best_merge(sweep):
    said = best_of(sweep.cells[0])
    assert said.startswith("epochs = 10. Most accurate at the end: ")
    assert "95 % interval" in said
