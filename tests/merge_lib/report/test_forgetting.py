import base64
from dataclasses import replace

import numpy as np
import pytest

from merge_lib.forgetting.examples import png
from merge_lib.forgetting.summary import Loss
from merge_lib.report import build_report
from merge_lib.report.aggregate import gather
from merge_lib.report.examples import example_figure
from merge_lib.report.forgetting import Merged, forgotten, page
from merge_lib.report.layout import Figure, Table
from merge_lib.report.render import write_figure, write_html, write_markdown
from merge_lib.results import ForgettingSummary, ForgottenExample, StudyResults

TASKS = ["red", "blue"]
PICTURE = base64.b64encode(png(np.eye(8, dtype=np.uint8) * 255)).decode()


def summary(more: float = 0.0, **measures: float) -> ForgettingSummary:
    measured = {
        "before": 0.9,
        "after": 0.6 + more,
        "forgotten": 0.4 - more,
        "gained": 0.1,
        "shared share": 0.3,
        "shared kept": 1.0,
        "specific kept": 0.5,
        **measures,
    }
    kept = {"shared share": 0.3, "shared kept": 1.0, "specific kept": 0.5}
    blocks = {"layers.0": dict.fromkeys(TASKS, kept), "no block": {"red": {"specific kept": 0.25}}}
    return ForgettingSummary("forgetting/key", dict.fromkeys(TASKS, measured), blocks)


def example(task: str = "red", number: int = 3, **fields) -> ForgottenExample:
    return ForgottenExample(
        **{
            "task": task,
            "example": number,
            "truth": "3",
            "answer": "8",
            "merges": 2,
            "of": 4,
            "picture": PICTURE,
            "text": "",
            **fields,
        }
    )


@pytest.fixture
def results(make_results) -> StudyResults:
    """Two seeds of one method in one regime; after the second seed's merge 0.1 more is right."""
    made = make_results(
        size=2, seeds=(0, 1), regimes=("parallel",), methods={"TIES": (0.9, 0.1)}, tasks=TASKS
    )
    rows = [
        replace(row, forgetting=summary(0.1 * row.seed)) if row.kind == "merge" else row for row in made.rows
    ]
    return replace(made, rows=rows, forgotten=[example(), example("blue", 5)])


def tables_of(section) -> dict[str, Table]:
    return {block.caption: block for block in section.blocks if isinstance(block, Table)}


def cells_of(table: Table, row: int = 0) -> dict[tuple[str | None, str], str]:
    return {
        (column.group, column.title): cell.text
        for column, cell in zip(table.columns, table.rows[row], strict=True)
    }


def test_the_section_says_before_and_after_and_what_is_kept(results):
    section = forgotten(gather(results), results)
    cells = cells_of(tables_of(section)["Before and after, shared and task-specific"])
    assert cells[None, "Method"] == "TIES"
    assert cells["Accuracy", "Before"] == "90.0 ± 0.0"
    assert cells["Accuracy", "After"].startswith("65.0 ± ")
    assert cells["Examples", "Forgotten"].startswith("35.0 ± ")
    assert cells["Shared part", "Kept"] == "100.0 ± 0.0"
    assert cells["Specific part", "Kept"] == "50.0 ± 0.0"
    assert cells["Specific part", "Opposed"] == "–"
    by_task = cells_of(tables_of(section)["Each task before and after"])
    assert by_task["Before → after", "blue"] == "90.0 → 65.0"
    assert f"mergeline forgetting {results.run_id}" in section.lead[0]


def test_a_study_without_it_has_no_section(make_results):
    results = make_results(size=2, seeds=(0,), tasks=TASKS)
    assert forgotten(gather(results), results) is None


def test_the_map_has_both_parts_by_block(results):
    section = forgotten(gather(results), results)
    (panel,) = next(block for block in section.blocks if isinstance(block, Figure)).panels
    texts = [shape.text for shape in panel.shapes if shape.kind == "text"]
    assert {"shared", "specific", "layers.0", "no block"} <= set(texts)
    tips = [shape.text for shape in panel.shapes if shape.kind == "box"]
    assert tips == [
        "layers.0, shared: 100.0 %",
        "layers.0, specific: 50.0 %",
        "no block, shared: not measured",
        "no block, specific: 25.0 %",
    ]


def test_pictures_stand_with_right_and_wrong_answers():
    figure = example_figure([example(), example(number=4, truth="seventeen"), example("blue")])
    assert [panel.title for panel in figure.panels] == ["red", "blue"]
    shapes = figure.panels[0].shapes
    assert [shape.d for shape in shapes if shape.kind == "image"] == [PICTURE, PICTURE]
    texts = [shape.text for shape in shapes if shape.kind == "text"]
    assert texts == ["3 → 8", "2 of 4", "seve… → 8", "2 of 4"]
    assert "seventeen answered as 8" in figure.panels[0].alt
    assert example_figure([example(picture="", text="a text")]) is None


def test_texts_stand_in_a_table(results):
    texts = [example(picture="", text="The film was | dull.")]
    section = forgotten(gather(results), replace(results, forgotten=texts))
    table = tables_of(section)["Forgotten examples"]
    assert cells_of(table)[None, "Text"] == "The film was | dull."
    assert cells_of(table)[None, "Forgotten by"] == "2 of 4"


def test_the_report_has_the_section_in_every_format(results, tmp_path):
    files = build_report(results, tmp_path)
    page, markdown = files.html.read_text(), files.markdown.read_text()
    assert "What was forgotten, and which examples" in page
    assert f"data:image/png;base64,{PICTURE}" in page
    assert "## What was forgotten, and which examples" in markdown
    assert "(figures/forgotten-examples.svg)" in markdown
    assert PICTURE in (tmp_path / "figures" / "forgotten-examples.svg").read_text()


def test_results_come_back_from_their_file(results, tmp_path):
    results.save(tmp_path / "results.json")
    assert StudyResults.load(tmp_path / "results.json") == results


def test_results_from_before_it_can_be_read(make_results, tmp_path):
    results = make_results(size=2, seeds=(0,), tasks=TASKS)
    results.save(tmp_path / "results.json")
    text = (tmp_path / "results.json").read_text()
    (tmp_path / "results.json").write_text(
        text.replace(' "forgotten": [],\n', "").replace('   "forgetting": null,\n', "")
    )
    assert "forgotten" not in (tmp_path / "results.json").read_text()
    assert StudyResults.load(tmp_path / "results.json") == results


def test_the_page_of_one_merge_has_tasks_blocks_and_tensors(tmp_path):
    one = Merged("trimmed", "ties", "parallel", (summary(base=0.1, **{"left overlap": 0.2}),))
    losses = [Loss("layers.0.weight", "red", 0.05, 0.3)]
    report = page("Forgetting", [("Merges", one.name)], [one], TASKS, losses, [example(of=1, merges=1)])
    tables = {block.caption: block for s in report.sections for block in s.blocks if isinstance(block, Table)}
    assert list(tables) == [
        "Before and after, shared and task-specific",
        "By task",
        "By block",
        "Where most is gone",
    ]
    cells = cells_of(tables["By task"], 1)
    assert cells[None, "Task"] == "blue"
    assert cells["Accuracy", "Base"] == "10.0"
    assert cells["Overlap with others", "Left"] == "20.0"
    assert cells["Overlap with others", "Right"] == "–"
    assert cells_of(tables["By block"], 1)["Specific part", "Kept"] == "25.0"
    assert cells_of(tables["Where most is gone"])["Gone, of the whole task vector", "Specific"] == "30.0"
    text = write_html(report, tmp_path / "page.html").read_text()
    assert PICTURE in text
    assert "first those that they were surest of" in text
    figures = {
        figure.name: write_figure(figure, tmp_path / f"{figure.name}.svg") for figure in report.figures
    }
    assert "layers.0.weight" in write_markdown(report, tmp_path / "page.md", figures).read_text()


def test_the_page_of_several_merges_sets_them_side_by_side(tmp_path):
    merges = [Merged(label, "ties", "parallel", (summary(), summary(0.1))) for label in ("one", "two")]
    report = page("Forgetting", [], merges, TASKS, [], [])
    tables = {block.caption for s in report.sections for block in s.blocks if isinstance(block, Table)}
    assert tables == {"Before and after, shared and task-specific", "Each task before and after"}
    assert "No example is known" in write_html(report, tmp_path / "page.html").read_text()
