"""The report's section on how inputs found their models."""

from dataclasses import replace

import pytest

from merge_lib.report.aggregate import gather
from merge_lib.report.leaderboard import standings
from merge_lib.report.routing import section
from merge_lib.results import RoutedStage, RowFacts, StudyResults
from merge_lib.routing import RoutingSettings

VOTE = RoutingSettings(voters=2, weights="similarity", images={"examples": 8}).model_dump(mode="json")
BASE = RoutingSettings(unseen="base").model_dump(mode="json")
FACTS = RowFacts("labelled", needs_task=False, is_tuned=False, looks_ahead=False, folds=True, chooses=True)


@pytest.fixture
def routed(results) -> StudyResults:
    """MagMax's rows as if they were routed by votes, the running average's as if the base answered what is to come."""

    def stages(row, *, votes: bool) -> list[RoutedStage]:
        return [
            RoutedStage(_chosen(results.tasks, count, row.seed) if votes else {}, _kept(count, votes=votes))
            for count in range(1, len(results.tasks) + 1)
        ]

    rows = []
    for row in results.rows:
        if row.label == "MagMax":
            row = replace(row, routing=VOTE, routed=stages(row, votes=True), facts=FACTS)  # noqa: PLW2901
        if row.label == "running average":
            row = replace(row, routing=BASE, routed=stages(row, votes=False))  # noqa: PLW2901
        rows.append(row)
    return replace(results, rows=rows)


def _chosen(tasks, count, seed):
    own = 0.8 + 0.05 * seed
    rest = (1 - own) / max(count - 1, 1)
    return {task: {other: own if other == task else rest for other in tasks[:count]} for task in tasks}


def _kept(count, *, votes):
    return {"unified": 4000, "masks": 125 * count} | ({"prototypes": 80 * count} if votes else {})


def test_rules_shares_and_bytes_are_told(routed):
    rules, right, kept = section(gather(routed), routed.tasks).blocks
    assert [[cell.text for cell in row] for row in rules.rows] == [
        [
            "MagMax",
            "the task's own model",
            "a vote",
            "the base and 2 tasks",
            "similarity",
            "texts and 8 images a task (train)",
        ],
        ["running average", "the task's own model", "the base", "–", "–", "–"],
    ]
    assert [row[2].text[:4] for row in right.rows] == [
        "85.0",
        "85.0",
    ]  # mean of 80, 85 and 90, in both regimes
    assert {row[0].text for row in right.rows} == {"MagMax"}
    by_name = {(row[0].text, row[1].text): [cell.text for cell in row[2:]] for row in kept.rows}
    assert by_name["MagMax", "parallel"] == [
        *("4.2 kB", "4.4 kB", "4.6 kB", "4.8 kB", "5.0 kB"),
        *("4.0 kB", "625 B", "400 B"),
    ]
    assert by_name["running average", "parallel"][-1] == "–"


def test_rows_that_nobody_tells_the_task_have_a_board_of_their_own(routed):
    boards = {board.title: {one.group.label for one in rows} for board, rows in standings(gather(routed))}
    assert boards["A model for each task, chosen by the input"] == {"MagMax"}


def test_a_study_without_routing_has_no_such_section(results):
    assert section(gather(results), results.tasks) is None


def test_results_outlive_their_process(routed, tmp_path):
    routed.save(tmp_path / "results.json")
    again = StudyResults.load(tmp_path / "results.json")
    kept = [row.routed for row in again.rows if row.label == "MagMax"]
    assert kept == [row.routed for row in routed.rows if row.label == "MagMax"]
    assert kept[0][1].right == pytest.approx(dict.fromkeys(routed.tasks[:2], 0.8))
