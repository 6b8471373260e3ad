import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import merge_lib
from merge_lib.errors import MethodInputError
from merge_lib.methods.tall_masks import masks

ONE, TWO = [1.0, 1.0, 0.1], [1.0, -1.0, 2.0]


def merge(method, vectors, **params):
    experts = [{"w": torch.tensor(row, dtype=torch.float64)} for row in vectors]
    return merge_lib.merge(method, experts, {"w": torch.zeros_like(experts[0]["w"])}, **params)["w"].tolist()


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(1.0, [[False] * 3, [False, False, True]]), (0.4, [[True, True, False], [True] * 3])],
)
def test_masks(threshold, expected):
    vectors = torch.tensor([ONE, TWO], dtype=torch.float64)
    assert masks(vectors, vectors.sum(0), threshold).tolist() == expected


def test_each_task_gets_its_part_of_the_sum():
    assert merge("tall_masks", [ONE, TWO]) == [2.0, 0.0, 2.1]
    assert merge("tall_masks", [ONE, TWO], task=0) == [2.0, 0.0, 0.0]
    assert merge("tall_masks", [ONE, TWO], task=1, threshold=1.0) == [0.0, 0.0, 2.1]


def test_the_sum_of_those_that_agree():
    vectors = [[3.0, 1.0, 0.5], [2.0, -4.0, 0.25], [1.0, 2.0, -0.5]]
    # nothing trimmed: signs + − +; 3+2+1, −4, 0.5+0.25
    assert merge("tall_masks", vectors, combine="ties", density=1) == [6.0, -4.0, 0.75]
    # the largest of each: 3, −4, 2: signs +, and −4 against 2
    assert merge("tall_masks", vectors, combine="ties", density=0.3) == [3.0, -4.0, 0.0]


def test_opposite_and_identical_experts():
    assert merge("tall_masks", [[1.0], [-1.0]], task=0) == [0.0]
    assert merge("tall_masks", [[1.0]] * 3, task=0) == [3.0]  # 1 > 0.4 · 2
    assert merge("tall_masks", [[1.0]] * 4, task=0) == [0.0]  # 1 < 0.4 · 3


def test_a_task_that_is_not_there():
    with pytest.raises(MethodInputError, match="`task` is 7, but 2 experts were given"):
        merge("tall_masks", [ONE, TWO], task=7)


VECTORS = st.lists(st.lists(st.floats(-4, 4), min_size=4, max_size=4), min_size=1, max_size=5)


@given(values=VECTORS, threshold=st.floats(0, 2))
def test_it_is_the_loop_of_its_formula(values, threshold):
    total = [0.0] * 4
    for row in values:
        total = [a + b for a, b in zip(total, row, strict=True)]
    for task, row in enumerate(values):
        expected = [
            t if abs(own) > threshold * abs(t - own) else 0.0 for t, own in zip(total, row, strict=True)
        ]
        assert merge("tall_masks", values, task=task, threshold=threshold) == expected


@given(values=VECTORS, low=st.floats(0, 1), more=st.floats(0, 1))
def test_a_larger_threshold_keeps_less(values, low, more):
    vectors = torch.tensor(values, dtype=torch.float64)
    total = vectors.sum(0)
    assert not (masks(vectors, total, low + more) & ~masks(vectors, total, low)).any()
