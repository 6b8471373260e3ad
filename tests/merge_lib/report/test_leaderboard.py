"""The leaderboard: likes beside likes, with what they cost."""

from dataclasses import replace

import pytest

from merge_lib.report import leaderboard, summary_table
from merge_lib.report.aggregate import gather
from merge_lib.report.findings import headline
from merge_lib.report.leaderboard import section, standings
from merge_lib.results import RowFacts, SearchRef, StudyResults

PLAIN = RowFacts("none", needs_task=False, is_tuned=False, looks_ahead=False, folds=False)
FACTS = {
    "TIES": replace(PLAIN, data="labelled", is_tuned=True, looks_ahead=True),
    "DARE": replace(PLAIN, data="labelled", is_tuned=True),
    "MagMax": replace(PLAIN, needs_task=True),
    "task arithmetic": replace(PLAIN, data="test inputs"),
    "running average": replace(PLAIN, folds=True),
}
FOUND = SearchRef({"density": 0.25, "trim": "model"}, 0.95, 20, 5, 12.0, "search/abc")


@pytest.fixture
def judged(results):
    """The results with facts: two tuned rows, a transductive one, one that must be told the task."""
    return replace(results, rows=[_with_facts(row) if row.kind == "merge" else row for row in results.rows])


def _with_facts(row):
    search = FOUND if row.label in ("TIES", "DARE") else None
    refs = [replace(ref, state_bytes=1000, learning={"fit/x": 2.0}, search=search) for ref in row.checkpoints]
    return replace(row, checkpoints=refs, facts=FACTS.get(row.label, PLAIN))


def test_rows_stand_with_their_kind_and_the_most_accurate_first(judged):
    boards = standings(gather(judged))
    assert [(board.title, {one.group.label for one in rows}) for board, rows in boards][1:] == [
        ("One model, tuned on validation data", {"TIES", "DARE"}),
        ("One model, has seen the test inputs", {"task arithmetic"}),
        ("A model for each task, which must be told", {"MagMax"}),
    ]
    assert boards[0][0].title == "One model"
    for _, rows in boards:
        means = [sum(row.metrics["average_accuracy"] for row in one.group.rows) for one in rows]
        assert means == sorted(means, reverse=True)
        assert [one.is_best for one in rows] == [True] + [False] * (len(rows) - 1)


def test_tests_and_marks_are_those_of_a_board(judged):
    boards = {board.title: rows for board, rows in standings(gather(judged))}
    tuned = boards["One model, tuned on validation data"]
    assert [one.p_holm is None for one in tuned] == [True, False, False, False]
    alone = StudyResults(
        **{**vars(judged), "rows": [row for row in judged.rows if row.label in ("TIES", "DARE")]}
    )
    assert [one.p_holm for one in standings(gather(alone))[0][1]] == [one.p_holm for one in tuned]


def test_costs_and_needs_of_a_row(judged):
    tables = {table.caption: table for table in section(gather(judged), judged.tasks).blocks}
    headings = [column.title for column in tables["One model"].columns]
    lines = {
        (row[0].text, row[1].text): dict(zip(headings, row, strict=True)) for row in tables["One model"].rows
    }
    running, uniform = lines["running average", "parallel"], lines["uniform average", "parallel"]
    assert (running["To go on"].text, uniform["To go on"].text) == ("1.0 kB", "all experts")
    assert running["Model"].text == "867.3 kB"
    assert running["Data"].text == "none"
    one = next(row for row in judged.rows if (row.label, row.regime) == ("running average", "parallel"))
    seeds = [row for row in judged.rows if (row.label, row.regime) == (one.label, one.regime)]
    seconds = sum((row.elapsed_s + 2.0) / 5 for row in seeds) / len(
        seeds
    )  # what was learned counts once a row
    assert running["Seconds"].text == f"{seconds:.{3 if seconds < 1 else 1}f}"
    tuned = tables["One model, tuned on validation data"]
    ahead = {row[0].text: row[-1].title for row in tuned.rows}
    assert "had not arrived yet" in ahead["TIES"]
    assert ahead["DARE"] is None


def test_what_searches_found_is_told_once_for_each_seed(judged):
    tables = {table.caption: table for table in section(gather(judged), judged.tasks).blocks}
    found = tables["What the searches found"]
    assert len(found.rows) == 2 * 2 * 3  # labels, regimes, seeds
    assert found.rows[0][-1].text == "density 0.25, trim model"
    assert found.rows[0][5].text == "95.0"


def test_a_long_sequence_is_shown_along_its_tasks(make_results, judged):
    assert "Along the sequence" not in {
        table.caption for table in section(gather(judged), judged.tasks).blocks
    }
    long = make_results(size=11)
    table = section(gather(long), long.tasks).blocks[-1]
    assert [column.title for column in table.columns[2:]] == ["1", "3", "5", "7", "9", "11"]
    row = next(row for row in long.rows if row.kind == "merge")
    line = next(line for line in table.rows if (line[0].text, line[1].text) == (row.label, row.regime))
    same = [other for other in long.rows if (other.label, other.regime) == (row.label, row.regime)]
    mean = sum(sum(other.accuracy[2][:3]) / 3 for other in same) / len(same)
    assert line[3].text.startswith(f"{100 * mean:.1f}")


def test_the_headline_compares_only_what_needs_the_least(judged):
    names = {finding.answer.partition(",")[0] for finding in headline(gather(judged))[:3]}
    assert not names & set(FACTS) - {"running average"}
    assert "Only rows of the first board" in headline(gather(judged))[0].basis


def test_summary_and_json_follow_the_boards(judged):
    rows = [row for row in summary_table(judged) if row.kind == "merge"]
    plain = leaderboard(judged)
    assert [(row.label, row.regime, row.board) for row in rows] == [
        (one["label"], one["regime"], one["board"]) for one in plain
    ]
    tuned = next(one for one in plain if one["label"] == "TIES")
    assert (tuned["data"], tuned["is_tuned"], tuned["looks_ahead"]) == ("labelled", True, True)
    assert set(tuned["average_accuracy"]) == {"mean", "half_width"}


def test_results_without_facts_have_one_board(results, tmp_path):
    boards = standings(gather(results))
    assert [board.title for board, _ in boards] == ["One model"]
    assert {row.costs["data"].text for row in summary_table(results) if row.costs} == {"–"}
    results.save(tmp_path / "results.json")
    assert StudyResults.load(tmp_path / "results.json") == results


def test_facts_and_searches_are_read_as_they_were_saved(judged, tmp_path):
    judged.save(tmp_path / "results.json")
    assert StudyResults.load(tmp_path / "results.json") == judged
