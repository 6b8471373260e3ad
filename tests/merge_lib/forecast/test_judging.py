"""Scores of held-out predictions."""

import numpy as np
import pytest

from merge_lib.errors import CheckpointCorruptError, MetricInputError
from merge_lib.forecast.judging import BASELINES, judge, rank_correlation, ranked, ranking, score
from merge_lib.forecast.table import read_lines


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 3], [10, 20, 90], 1),
        ([1, 2, 3], [3, 2, 1], -1),
        ([1, 2, 3, 4], [1, 3, 2, 4], 0.8),
        ([5, 5, 5], [1, 2, 3], 0),
        ([1, 1, 2], [1, 2, 3], np.sqrt(3) / 2),
    ],
)
def test_rank_correlation(first, second, expected):
    found = rank_correlation(np.array(first, float), np.array(second, float))
    assert found == pytest.approx(expected)


def test_equal_values_share_their_ranks():
    assert ranked(np.array([7.0, 3.0, 7.0, 1.0])).tolist() == [2.5, 1.0, 2.5, 0.0]


def test_one_value_has_no_rank_correlation():
    with pytest.raises(MetricInputError, match="two values or more of each; got 1 and 1"):
        rank_correlation(np.ones(1), np.ones(1))


def test_each_study_is_predicted_by_the_others_alone(table):
    seen = []

    def fit(rows):
        known = set(rows.studies)

        def predict(held_out):
            seen.append((known, set(held_out.studies)))
            return held_out.losses, held_out.losses - 1, held_out.losses + 1

        return predict

    scores = judge(table, fit)
    assert [left_out for _, left_out in seen] == [{f"s{n}"} for n in range(4)]
    assert all(not known & left_out and len(known) == 3 for known, left_out in seen)
    assert (scores.rank_correlation, scores.within, scores.ranking) == pytest.approx((1, 1, 1))
    assert (scores.error, scores.coverage, scores.width) == (0, 1, 2)


def test_coverage_and_error(table):
    zero = np.zeros(len(table.losses))
    scores = score(table, zero, zero - 1, zero + 1)
    assert scores.coverage == pytest.approx((np.abs(table.losses) <= 1).mean())
    assert scores.error == pytest.approx(np.abs(table.losses).mean())
    assert scores.rank_correlation == scores.within == scores.ranking == 0
    assert scores.by_study["s1"]["rows"] == 30


def test_the_order_of_merges_is_that_of_their_means_over_tasks(table):
    own = table.studies == "s0"
    assert ranking(table.only(own), table.losses[own]) == pytest.approx(1)
    swapped = table.losses[own].reshape(-1, 2)[:, ::-1].reshape(-1)  # between the two tasks of each merge
    assert ranking(table.only(own), swapped) == pytest.approx(1)


def test_baselines(table):
    mean, line, _ = (judge(table, baseline) for baseline in BASELINES.values())
    assert mean.by_study["s2"]["rank correlation"] == 0
    assert abs(line.within) < 0.5
    assert 0.7 < mean.coverage < 0.9


def test_a_table_that_cannot_be_read(tmp_path):
    path = tmp_path / "lines.parquet"
    path.write_bytes(b"none")
    with pytest.raises(CheckpointCorruptError, match=r"The forecast.s table in .* cannot be read"):
        read_lines([path])
