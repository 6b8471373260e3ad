"""What is evaluated: files, and merges that were evaluated as they were made."""

from pathlib import Path

import pytest

from merge_lib.errors import MergeError
from tasks.evaluation import evaluate_one
from tasks.jobs import Finished, Scores, Setting


def merge_without_a_file(scores: Scores | None) -> Finished:
    return Finished("merge", "key", None, "xxh3:12", 10, 1.0, reused=False, scores=scores)


def test_a_merge_that_is_not_kept_has_its_scores_or_is_refused(tmp_path):
    setting = Setting(str(tmp_path), {}, ("a",), {})
    scores = Scores("xxh3:12", (0.5,), 1.0, reused=False)
    assert evaluate_one(setting, "a label", merge_without_a_file(scores)) is scores
    with pytest.raises(
        MergeError, match=r"Merge xxh3:12 was neither kept nor evaluated\. Run the study again"
    ):
        evaluate_one(setting, "a label", merge_without_a_file(None))
    assert not list(Path(tmp_path).iterdir())
