import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge_lib.methods.breadcrumbs import breadcrumbs
from merge_lib.trail import TakenTrail


def merge(*vectors, **params):
    return breadcrumbs(torch.tensor(vectors, dtype=torch.float64), **params).tolist()


def test_outliers_first_then_the_largest_of_the_rest():
    # of five one outlier, then two: 10 is dropped, −4 and 3 are kept
    assert merge([10, 1, -4, 3, 2], density=0.4, outliers=0.2, scale=1) == [0, 0, -4, 3, 0]


def test_so_few_entries_have_no_outliers():
    # ⌊0.006 · 5⌋ = 0 outliers: nothing is lost but the small ones
    assert merge([10, 1, -4, 3, 2], density=0.4, scale=1) == [10, 0, -4, 0, 0]


def test_rows_and_the_whole_tensor():
    matrix = [[8.0, 7.0], [2.0, 1.0]]
    assert merge(matrix, density=0.5, outliers=0, scale=1) == [[8, 0], [2, 0]]
    assert merge(matrix, density=0.5, outliers=0, scale=1, trim="tensor") == [[8, 7], [0, 0]]
    assert merge(matrix, density=0.5, outliers=0.25, scale=1, trim="tensor") == [[0, 7], [2, 0]]


def test_one_entry_is_always_left():
    assert merge([5, 4], density=0.01, outliers=0.99, scale=1) == [0, 4]
    assert merge(5.0, outliers=0.99, scale=1) == 5.0
    assert merge([[], []]) == [[], []]


def test_the_sum_of_several():
    assert merge([4, 1], [-1, 2], [3, 0], density=0.5, outliers=0, scale=0.5) == [3.5, 1]


def test_equal_magnitudes_are_counted_exactly():
    assert merge([1, -1, 1, 1], density=0.5, outliers=0.25, scale=1) == [0, -1, 1, 0]


def test_what_it_notes():
    trail = TakenTrail()
    breadcrumbs(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), trail=trail, density=0.5, outliers=0)
    assert trail.notes == {"share kept": [0.5, 0.5], "energy removed": [pytest.approx(9 / 25), 0.0]}


@given(
    values=st.lists(st.lists(st.floats(-4, 4), min_size=7, max_size=7), min_size=1, max_size=4),
    density=st.floats(0.05, 1),
    outliers=st.floats(0, 0.9),
)
def test_it_is_the_loop_of_its_formula(values, density, outliers):
    expected = [0.0] * 7
    for row in values:
        order = sorted(range(7), key=lambda j: abs(row[j]))  # stable
        left = order[: 7 - min(int(outliers * 7), 6)]
        for j in left[-max(1, int(density * 7 + 0.5)) :]:
            expected[j] += row[j]
    assert merge(*values, density=density, outliers=outliers, scale=1) == pytest.approx(expected)
