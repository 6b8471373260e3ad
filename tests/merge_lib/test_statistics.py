"""Intervals, paired tests and Holm's correction: numbers by hand, and the degenerate cases."""

import math

import pytest
from scipy import stats

from merge_lib import statistics
from merge_lib.errors import MetricInputError


def test_interval_of_three_seeds_by_hand():
    # mean .8, s = .1, t(2, .975) = 4.302653, half = 4.302653 * .1 / sqrt(3) = .248414
    interval = statistics.mean_interval([0.7, 0.8, 0.9])
    assert interval.mean == pytest.approx(0.8)
    assert interval.half_width == pytest.approx(0.248414, abs=1e-6)
    assert interval.low == pytest.approx(0.551586, abs=1e-6)
    assert interval.high == pytest.approx(1.048414, abs=1e-6)
    assert interval.method == "Student t, 95%, n = 3"


def test_one_seed_has_a_mean_and_no_interval():
    interval = statistics.mean_interval([0.7])
    assert (interval.mean, interval.low, interval.high, interval.half_width) == (0.7, None, None, None)
    assert interval.method == "one seed: no interval"


def test_equal_values_have_an_interval_of_length_zero():
    interval = statistics.mean_interval([0.1 + 0.2, 0.3, 0.3])
    assert interval.half_width == 0.0
    assert interval.low == interval.mean == interval.high


@pytest.mark.parametrize("values", [[], [math.nan], [0.1, math.inf]])
def test_interval_refuses_what_is_not_a_number(values):
    with pytest.raises(MetricInputError, match="one finite number for each seed; got"):
        statistics.mean_interval(values)


def test_paired_test_by_hand():
    # d = .1, .2, .3: mean .2, s = .1, t = .2 / (.1 / sqrt 3) = 3.464102
    # two-sided p with 2 degrees: 1 - t / sqrt(2 + t^2) = 1 - 3.464102 / 3.741657 = .074180
    test = statistics.paired_test([0.6, 0.8, 1.0], [0.5, 0.6, 0.7])
    assert test.difference.mean == pytest.approx(0.2)
    assert test.effect_size == pytest.approx(2.0)
    assert test.p_value == pytest.approx(0.074180, abs=1e-6)
    assert test.reason is None
    assert test.method == "paired t-test, n = 3"


def test_paired_test_agrees_with_scipy():
    first, second = [0.61, 0.72, 0.55, 0.69, 0.7], [0.58, 0.7, 0.57, 0.6, 0.66]
    assert statistics.paired_test(first, second).p_value == pytest.approx(
        stats.ttest_rel(first, second).pvalue, rel=1e-12
    )


def test_sign_of_the_difference_follows_the_order():
    first, second = [0.6, 0.8, 1.0], [0.5, 0.6, 0.7]
    forward, back = statistics.paired_test(first, second), statistics.paired_test(second, first)
    assert back.difference.mean == pytest.approx(-forward.difference.mean)
    assert back.p_value == pytest.approx(forward.p_value)


@pytest.mark.parametrize(
    ("first", "second", "p_value", "reason"),
    [
        ([0.5], [0.4], None, statistics.ONE_SEED),
        ([0.5, 0.6, 0.7], [0.5, 0.6, 0.7], 1.0, statistics.NO_DIFFERENCE),
        ([0.1 + 0.2, 0.3], [0.3, 0.1 + 0.2], 1.0, statistics.NO_DIFFERENCE),
        ([0.6, 0.7, 0.8], [0.5, 0.6, 0.7], None, statistics.CONSTANT_DIFFERENCE),
    ],
)
def test_degenerate_pairs_name_their_reason(first, second, p_value, reason):
    test = statistics.paired_test(first, second)
    assert (test.p_value, test.reason) == (p_value, reason)


def test_paired_test_needs_the_same_seeds():
    with pytest.raises(MetricInputError, match="got 3 and 2 values"):
        statistics.paired_test([1, 2, 3], [1, 2])


def test_holm_by_hand():
    # sorted .01 .02 .03 .04 -> .04, .06, .06 (3 * .02 = .06 > 2 * .03 = .06), .06 (> 1 * .04)
    assert statistics.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])


def test_holm_never_exceeds_one_and_never_lowers():
    assert statistics.holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert statistics.holm([]) == []


def test_a_test_that_could_not_be_computed_counts_in_the_family():
    assert statistics.holm([0.01, None, 0.02]) == pytest.approx([0.03, None, 0.04])


def test_a_clear_winner_is_alone():
    rows = {
        "weak": [0.50, 0.52, 0.51, 0.49, 0.50],
        "strong": [0.90, 0.91, 0.92, 0.90, 0.91],
        "middle": [0.70, 0.69, 0.71, 0.72, 0.70],
    }
    best = statistics.compare_with_best(rows, higher_is_better=True)
    assert best.name == "strong"
    assert best.is_alone
    assert best.ties == ()
    assert set(best.versus) == {"weak", "middle"}
    assert best.method == "paired t-test over 5 seeds, Holm over 2 tests, α = 0.05"
    least = statistics.compare_with_best(rows, higher_is_better=False)
    assert least.name == "weak"
    assert least.is_alone


def test_the_highest_mean_is_not_best_where_the_test_does_not_say_so():
    best = statistics.compare_with_best(
        {"a": [0.9, 0.5, 0.7], "b": [0.6, 0.7, 0.71], "c": [0.1, 0.11, 0.1]}, higher_is_better=True
    )
    assert best.name == "a"
    assert best.ties == ("b", "c")  # a spreads so far that even c is not told apart
    assert not best.is_alone


def test_correction_can_take_the_distinction_back():
    # d = .1, .12, .14: t = .12 / (.02 / sqrt 3) = 10.392305, p = 1 - t / sqrt(2 + t^2) = .009132
    rows = {"a": [0.60, 0.62, 0.64], "b": [0.50, 0.50, 0.50]}
    assert statistics.compare_with_best(rows, higher_is_better=True).versus["b"].p_holm == pytest.approx(
        0.009132, abs=1e-6
    )
    many = rows | {f"tie{i}": rows["a"] for i in range(5)}
    versus = statistics.compare_with_best(many, higher_is_better=True).versus["b"]
    assert versus.p_holm == pytest.approx(6 * 0.009132, abs=1e-5)
    assert not versus.distinguishable


@pytest.mark.parametrize("values", [{"a": [0.9], "b": [0.1]}, {"a": [0.9, 0.8], "b": [0.5, 0.4]}])
def test_one_seed_or_a_constant_difference_decides_nothing(values):
    best = statistics.compare_with_best(values, higher_is_better=True)
    assert best.ties == ("b",)
    assert best.versus["b"].p_holm is None


def test_a_single_row_is_not_alone_at_the_top():
    assert not statistics.compare_with_best({"a": [0.9, 0.8]}, higher_is_better=True).is_alone


def test_no_rows_is_an_error():
    with pytest.raises(MetricInputError, match="picked from its rows; got none"):
        statistics.compare_with_best({}, higher_is_better=True)
