"""The retention score: worked numbers, and when it is refused."""

import math

import pytest

from merge_lib.errors import MetricInputError
from merge_lib.metrics import Retention, retention_score, retention_scores


@pytest.mark.parametrize(
    ("merged", "base", "expert", "value"),
    [
        (0.9, 0.5, 0.9, 1.0),  # all kept
        (0.5, 0.5, 0.9, 0.0),  # back to the base
        (0.6, 0.5, 0.9, 0.25),
        (0.95, 0.5, 0.9, 1.125),  # better than the expert
        (0.4, 0.5, 0.9, -0.25),  # worse than the base
    ],
)
def test_share_of_the_gain_that_is_kept(merged, base, expert, value):
    assert retention_score(merged, base, expert) == Retention(pytest.approx(value))


@pytest.mark.parametrize(("base", "expert"), [(0.80, 0.8499), (0.8, 0.8), (0.9, 0.7)])
def test_a_gain_below_five_points_is_refused_with_its_size(base, expert):
    found = retention_score(0.8, base, expert)
    assert found.value is None
    assert f"gained {100 * (expert - base):.1f} points" in found.reason


@pytest.mark.parametrize(("base", "expert"), [(0.80, 0.85), (0.70, 0.75), (0.10, 0.15), (0.0, 0.05)])
def test_five_points_are_enough_in_spite_of_rounding(base, expert):
    assert retention_score(expert, base, expert) == Retention(1.0)


def test_what_was_not_measured_has_no_score():
    assert retention_score(None, 0.1, 0.9).reason == "the accuracy of the merge was not measured"
    assert (
        retention_score(0.5, math.nan, None).reason
        == "the accuracy of the base and the expert was not measured"
    )


def test_percentages_are_refused():
    with pytest.raises(MetricInputError, match=r"got 90\.0 for the expert\. Divide percentages by 100"):
        retention_score(0.5, 0.1, 90.0)


def test_a_curve_has_a_score_at_each_point():
    assert [found.value for found in retention_scores([0.9, 0.7, None], 0.5, 0.9)] == [
        1.0,
        pytest.approx(0.5),
        None,
    ]
