"""Learners in the report: beside the merges on the leaderboard, and among themselves."""

from dataclasses import replace

import pytest

from flows.summary import columns_of
from merge_lib.report import leaderboard, summary_table
from merge_lib.report.aggregate import gather, merges_of, references_of
from merge_lib.report.findings import headline
from merge_lib.report.learners import section
from merge_lib.report.sections import compose
from merge_lib.results import RowFacts, StudyResults, Taught

PLAIN = RowFacts("none", needs_task=False, is_tuned=False, looks_ahead=False, folds=True)
MEMORY = replace(PLAIN, replays=True)
SELECTED = replace(MEMORY, data="labelled", is_tuned=True)
CELLS = {"shared": 0.1, "new": 0.1, "historical": 0.2, "redundant": 0.6}
ROUNDS = Taught(20, 5000, 0, 12, CELLS, {"inner": 0.5, "outer": 0.25, "fused": 0.3})
LEARNERS = {  # in place of these methods' rows
    "TIES": ("sequential", PLAIN, None),
    "MagMax": ("replay", MEMORY, Taught(20, 5000, 0)),
    "DARE": ("kif", MEMORY, ROUNDS),
    "task arithmetic": ("kif-selected", SELECTED, replace(ROUNDS, held_out=25)),
}


@pytest.fixture
def taught(results) -> StudyResults:
    rows = [_as_learner(row) for row in results.rows]
    return replace(results, rows=[row for row in rows if row.kind != "learner" or row.regime is None])


def _as_learner(row):
    if row.label not in LEARNERS:
        return row
    label, facts, shown = LEARNERS[row.label]
    refs = [row.checkpoints[0], *(replace(ref, taught=shown) for ref in row.checkpoints[1:])]
    regime = None if row.regime == "sequential" else row.regime
    return replace(
        row, label=label, kind="learner", regime=regime, facts=facts, checkpoints=refs, elapsed_s=12.0
    )


def test_learners_stand_on_the_boards_of_their_kind(taught):
    boards = {}
    for entry in leaderboard(taught):
        boards.setdefault(entry["board"], set()).add(entry["label"])
    assert {"sequential", "uniform average"} <= boards.pop("One model")
    assert boards == {
        "One model, keeps examples of earlier tasks": {"replay", "kif"},
        "One model, tuned on validation data, keeps examples of earlier tasks": {"kif-selected"},
    }
    kinds = {row.label: row.kind for row in summary_table(taught)}
    assert kinds["replay"] == "learner"
    needs = next(column for column in columns_of(summary_table(taught, METRICS)) if column.heading == "data")
    assert "memory" in needs.texts


METRICS = ("average_accuracy", "worst_task_accuracy", "forgetting")


def test_what_learners_were_shown_and_how_they_compare(taught):
    tables = {table.caption: table for table in section(gather(taught), taught.tasks).blocks}
    overview = {
        row[0].text: [cell.text for cell in row] for row in tables["Learners after the last task"].rows
    }
    headings = [column.title for column in tables["Learners after the last task"].columns]
    assert headings == [
        "Learner",
        "OP",
        "BWT",
        "FWT",
        "Forgetting",
        "Examples",
        "Size",
        "Extra supervision",
        "Seconds",
    ]
    assert overview["sequential"][5:] == ["none", "none", "none", "12.0"]
    assert overview["replay"][5:] == ["20", "5.0 kB", "none", "12.0"]
    assert overview["kif-selected"][5:] == ["20", "5.0 kB", "25 development examples a task", "12.0"]

    pairs = tables["Each two learners"].rows
    assert len(pairs) == 6
    one = next(row for row in pairs if {row[0].text, row[1].text} == {"sequential", "replay"})
    values = {
        label: [
            row.metrics["average_accuracy"]
            for row in taught.rows
            if row.label == label and row.regime is None
        ]
        for label in ("sequential", "replay")
    }
    mean = 100 * sum(a - b for a, b in zip(values[one[0].text], values[one[1].text], strict=True)) / 3
    assert one[2].text.split()[0] == f"{mean:.1f}".replace("-", "−")

    fusions = tables["Fusions"].rows
    assert len(fusions) == 2 * (len(taught.tasks) - 1)  # none for the first task
    told = [cell.text for cell in fusions[0][1:]]
    assert told == [taught.tasks[1], "12", "10.0", "10.0", "20.0", "60.0", "0.5", "0.25", "0.3"]


def test_a_study_of_learners_alone_has_a_report(taught):
    alone = replace(taught, rows=[row for row in taught.rows if row.kind != "merge"])
    groups = gather(alone)
    assert not merges_of(groups)
    assert {group.label for group in references_of(groups)} == {"base", "expert", "sequential", "joint"}
    assert {finding.answer for finding in headline(groups)} >= {"sequential"}
    captions = [section.title for section in compose(alone).sections]
    assert "Learners" in captions
    assert "Every metric" in captions


def test_results_with_learners_are_read_back(taught, tmp_path):
    taught.save(tmp_path / "results.json")
    assert StudyResults.load(tmp_path / "results.json") == taught
