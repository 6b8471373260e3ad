"""What a row of a study is said to need."""

import pytest

from tasks.facts import facts_of
from tasks.jobs import MergeEntry

SEARCH = {"trials": 2, "when": "last", "params": {}}


@pytest.mark.parametrize(
    ("method", "params", "calibration", "data"),
    [
        ("ties", {}, {}, "none"),
        ("regmean", {}, {}, "unlabelled"),
        ("regmean", {}, {"split": "test"}, "test inputs"),
        ("greedy_soup", {}, {}, "labelled"),
        ("adamerging", {"split": "test"}, {}, "test inputs"),
        ("adamerging", {"split": "validation"}, {}, "unlabelled"),
    ],
)
def test_the_data_that_a_merge_is_shown(method, params, calibration, data):
    assert facts_of(MergeEntry("row", method, params, calibration=calibration)).data == data


def test_a_search_needs_labels_but_does_not_make_test_inputs_honest():
    tuned = facts_of(MergeEntry("row", "ties", {}, search=SEARCH))
    assert (tuned.data, tuned.is_tuned, tuned.looks_ahead) == ("labelled", True, True)
    every = facts_of(MergeEntry("row", "ties", {}, search={**SEARCH, "when": "every"}))
    assert (every.is_tuned, every.looks_ahead) == (True, False)
    seen = facts_of(MergeEntry("row", "adamerging", {"split": "test"}, search=SEARCH))
    assert seen.data == "test inputs"


def test_whether_the_task_must_be_told_and_whether_a_state_is_enough():
    assert facts_of(MergeEntry("row", "emr", {"task": -1})).needs_task
    assert not facts_of(MergeEntry("row", "emr", {"task": 1})).needs_task
    assert facts_of(MergeEntry("row", "magmax", {})).folds
    assert not facts_of(MergeEntry("row", "magmax", {}, {"slope": 0.5})).folds
    assert not facts_of(MergeEntry("row", "magmax", {}, equalise="norms")).folds
    assert not facts_of(MergeEntry("row", "ties", {})).folds
