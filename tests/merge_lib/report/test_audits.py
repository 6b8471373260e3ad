from dataclasses import replace

import numpy as np
import pytest

from merge_lib.report import build_report
from merge_lib.report.aggregate import gather
from merge_lib.report.audits import block_figure, removed
from merge_lib.report.bitmap import write_block_maps
from merge_lib.report.charts import block_panel
from merge_lib.report.layout import Figure, Table
from merge_lib.results import AuditSummary, StudyResults

TASKS = ["red", "blue"]


def summary(kept: dict[str, float]) -> AuditSummary:
    tasks = {
        task: {"energy kept": value, "outvoted energy": 0.25, "opposed energy": 0.5, "merged density": 1.0}
        for task, value in kept.items()
    }
    return AuditSummary("audit/key", tasks, {"layers.0": kept, "no block": dict.fromkeys(kept, 0.0)})


@pytest.fixture
def audited(make_results):
    """Two seeds of one method in one regime; the second keeps 0.1 more of red."""
    results = make_results(
        size=2, seeds=(0, 1), regimes=("parallel",), methods={"TIES": (0.9, 0.1)}, tasks=TASKS
    )
    rows = [
        replace(row, audit=summary({"red": 0.4 + 0.1 * row.seed, "blue": -0.2}))
        if row.kind == "merge"
        else row
        for row in results.rows
    ]
    return replace(results, rows=rows)


def section_of(results):
    return removed(gather(results), results.tasks, results.run_id)


def test_the_table_says_what_is_kept_by_task(audited):
    section = section_of(audited)
    table = next(block for block in section.blocks if isinstance(block, Table))
    (row,) = table.rows
    cells = {column.title: cell for column, cell in zip(table.columns, row, strict=True)}
    assert (cells["Method"].text, cells["Experts"].text) == ("TIES", "parallel")
    assert cells["red"].text.startswith("45.0 ± ")
    assert cells["blue"].text == "−20.0 ± 0.0"
    assert cells["Mean"].text.startswith("12.5 ± ")
    assert cells["Outvoted"].text == "25.0 ± 0.0"
    assert cells["Against the merge"].text == "50.0 ± 0.0"
    assert cells["Cosine"].text == "–"
    assert f"mergeline audit {audited.run_id}" in section.lead[0]


def test_a_task_whose_vector_is_zero_has_no_share(audited):
    rows = [
        replace(row, audit=row.audit and AuditSummary("", {"red": {}}, {"no block": {}}))
        for row in audited.rows
    ]
    section = section_of(replace(audited, rows=rows))
    table = next(block for block in section.blocks if isinstance(block, Table))
    assert {cell.text for cell in table.rows[0][2:]} == {"–"}


def test_the_map_has_the_mean_over_the_seeds(audited):
    figure = next(block for block in section_of(audited).blocks if isinstance(block, Figure))
    (panel,) = figure.panels
    texts = [shape.text for shape in panel.shapes if shape.kind == "text" and "heat" in shape.style]
    assert texts == ["45", "−20", "0", "0"]
    tips = [shape.text for shape in panel.shapes if shape.kind == "box"]
    assert tips[0] == "layers.0, on red: 45.0 %"
    assert "red 0 to 45 %" in panel.alt


def test_the_map_has_what_any_seed_defines(audited):
    frozen = AuditSummary("", {"red": {}}, {"layers.0": {"red": 0.3}, "no block": {}})
    rows = [replace(row, audit=frozen) if row.audit and row.seed == 0 else row for row in audited.rows]
    (panel,) = next(
        block for block in section_of(replace(audited, rows=rows)).blocks if isinstance(block, Figure)
    ).panels
    texts = [shape.text for shape in panel.shapes if shape.kind == "text" and "heat" in shape.style]
    assert texts == ["40", "−20", "0", "0"]


def test_values_beyond_the_ends_have_their_shade():
    panel = block_panel("t", np.array([[-0.5, 1.7, np.nan]]), ["encoder.layers.11"], ["a", "b", "c"])
    boxes = [shape for shape in panel.shapes if shape.kind == "box"]
    assert [shape.style for shape in boxes] == ["heat-0", "heat-10", "heat-none"]
    assert "not measured" in boxes[2].text
    assert "…oder.layers.11" in {shape.text for shape in panel.shapes}
    narrow = block_panel("t", np.full((1, 8), -1.23), ["layers.0"], [str(task) for task in range(8)])
    assert {shape.text for shape in narrow.shapes if "on-heat" in shape.style} == {"<0"}
    many = block_panel("t", np.zeros((1, 12)), ["layers.0"], [str(task) for task in range(12)])
    assert not any("on-heat" in shape.style for shape in many.shapes)


def test_the_whole_report_holds_it(audited, results, tmp_path):
    files = build_report(audited, tmp_path / "report")
    assert 'id="removed"' in files.html.read_text()
    assert "## What each merge removed" in files.markdown.read_text()
    assert "energy-kept.svg" in {path.name for path in files.figures}
    without = build_report(results, tmp_path / "without")
    assert "What each merge removed" not in without.markdown.read_text()


def test_results_with_audits_come_back_from_their_file(audited, tmp_path):
    audited.save(tmp_path / "results.json")
    assert StudyResults.load(tmp_path / "results.json").rows == audited.rows


def test_a_map_as_png(tmp_path):
    merges = {"TIES": {"layers.0": {"red": 0.4}}, "mean": {"layers.0": {"red": 0.9, "blue": 0.1}}}
    path = write_block_maps(merges, TASKS, tmp_path / "deep" / "map.png")
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert [panel.title for panel in block_figure(merges, TASKS).panels] == ["TIES", "mean"]
