import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import merge_lib
from merge_lib.methods.dare_ties import dare_ties
from merge_lib.ops.chance import TensorGenerator
from merge_lib.trail import TakenTrail


def merge(vectors, **params):
    experts = [{"w": torch.tensor(row, dtype=torch.float64)} for row in vectors]
    base = {"w": torch.zeros_like(experts[0]["w"])}
    return merge_lib.merge("dare_ties", experts, base, **params)["w"].tolist()


def test_nothing_dropped():
    # sums 1, −2, 0: plus is elected where they cancel
    assert merge([[3.0, -3.0, 2.0], [-2.0, 1.0, -2.0]], density=1) == [3.0, -3.0, 2.0]


@given(
    values=st.lists(st.lists(st.floats(-4, 4), min_size=5, max_size=5), min_size=1, max_size=4),
    density=st.sampled_from([0.25, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_it_is_the_loop_of_its_formula(values, density, seed):
    generator = TensorGenerator(seed=seed, tensor="w")
    thinned = [
        [
            x / density if kept else 0.0
            for x, kept in zip(row, generator.keep(i, (5,), density).tolist(), strict=True)
        ]
        for i, row in enumerate(values)
    ]
    expected = []
    for column in zip(*thinned, strict=True):
        sign = 1 if sum(column) >= 0 else -1
        agreeing = [x for x in column if x * sign > 0]
        expected.append(0.7 * sum(agreeing) / len(agreeing) if agreeing else 0.0)
    assert merge(values, density=density, seed=seed, scale=0.7) == pytest.approx(expected)


def test_what_is_dropped_takes_no_part_in_the_mean():
    merged = merge([[1.0] * 2000] * 2, density=0.5)
    # both kept, or one: the mean of those is 2; none in about a quarter
    assert set(merged) == {0.0, 2.0}
    assert merged.count(0.0) / 2000 == pytest.approx(0.25, abs=0.04)  # standard error 0.01


def test_what_it_notes():
    trail = TakenTrail()
    dare_ties(torch.ones(2, 4000), generator=TensorGenerator(1, "w"), trail=trail, density=0.3)
    assert trail.notes["share kept"] == pytest.approx([0.3, 0.3], abs=0.03)
