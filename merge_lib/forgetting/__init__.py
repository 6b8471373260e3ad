"""What a merge forgot: the directions of each task vector that it lost, and the examples that it no longer knows."""

from merge_lib.forgetting.answers import Answers, answers_of
from merge_lib.forgetting.comparison import compare_answers
from merge_lib.forgetting.examples import often_forgotten
from merge_lib.forgetting.lost import Lost, lost_by

__all__ = ["Answers", "Lost", "answers_of", "compare_answers", "lost_by", "often_forgotten"]
