from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge_lib.ops.masses import count_magnitudes, exact_masses
from merge_lib.ops.quantile import survivor_count
from merge_lib.ops.signs import elected_mean


@given(
    values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=30),
    cut=st.integers(0, 30),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_sums_are_exact_and_do_not_depend_on_pieces(values, cut, dtype):
    row = torch.tensor([values], dtype=dtype)
    smallest = Fraction(2) ** {torch.float32: -149, torch.float64: -1074}[dtype]
    whole = count_magnitudes(row)
    assert exact_masses(whole)[0] * smallest == sum(abs(Fraction(value)) for value in row[0].tolist())
    assert torch.equal(whole, count_magnitudes(row[:, :cut]) + count_magnitudes(row[:, cut:]))


def test_rows_of_nothing_have_no_mass():
    assert exact_masses(count_magnitudes(torch.empty(2, 0))) == [0, 0]


@pytest.mark.parametrize(
    ("total", "share", "kept"),
    [(5, 0.2, 2), (10, 0.9, 10), (10, 0.15, 3), (7, 1.0, 7), (3, 0.9, 3), (1, 0.1, 1)],
)
def test_survivors_are_those_from_the_k_th_smallest_on(total, share, kept):
    assert survivor_count(total, share) == kept


def test_elected_means():
    values = torch.tensor(
        [[3.0, 1.0, 2.0, 1e-9, 0.0], [1.0, -4.0, -2.0, 5.0, 0.0], [-2.0, 1.0, 1e-7, 3.0, 0.0]]
    )
    # (3 + 1)/2; the loudest; a tie; rounding counts as zero: (5 + 3)/2; nobody
    assert elected_mean(values, 1e-6).tolist() == [2.0, -4.0, 0.0, 4.0, 0.0]
    assert elected_mean(values)[3].item() == pytest.approx(8 / 3)
