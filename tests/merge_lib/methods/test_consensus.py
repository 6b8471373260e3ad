import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import merge_lib
from merge_lib.methods.consensus import consensus
from merge_lib.ops.quantile import begin_thresholds
from merge_lib.trail import TakenTrail

VECTORS = [[1.0, 1.0, 0.1], [1.0, -1.0, 2.0]]  # masks at 0.4: [1, 1, 0] and [1, 1, 1]


def merge(vectors, **params):
    experts = [{"w": torch.tensor(row, dtype=torch.float64)} for row in vectors]
    base = {"w": torch.zeros_like(experts[0]["w"])}
    return merge_lib.merge("consensus", experts, base, **params)["w"].tolist()


def test_only_what_two_tasks_use_is_kept():
    assert merge(VECTORS, scale=0.5) == [1.0, 0.0, 0.0]
    assert merge(VECTORS, scale=0.5, tasks=1) == [1.0, 0.0, 1.05]
    assert merge(VECTORS, scale=0.5, tasks=3) == [0.0, 0.0, 0.0]
    assert merge(VECTORS, scale=1, tasks=1, threshold=1) == [0.0, 0.0, 2.1]


def test_an_expert_alone_has_no_consensus():
    assert merge([[1.0, -2.0]]) == [0.0, 0.0]


def test_a_frozen_entry_stays():
    assert merge([[0.0, 1.0]] * 2, scale=1) == [0.0, 2.0]


def test_the_sum_of_trimmed_entries_that_agree():
    # nothing trimmed: + − +; sums 2, −1, 2.1; the masks are those of the untrimmed vectors
    assert merge(VECTORS, combine="ties", density=1, scale=1, tasks=1) == [2.0, 1.0, 2.1]


def test_what_it_notes():
    trail = TakenTrail()
    none = begin_thresholds(2, torch.float64, share=1)
    consensus(torch.tensor(VECTORS, dtype=torch.float64), none, trail=trail)
    third = pytest.approx(1 / 3)
    assert trail.notes == {
        "share used": [pytest.approx(2 / 3), 1.0],
        "share kept": [pytest.approx(2 / 3)],
        "share selfish": [third],
        "share catastrophic": [0.0],
    }


@given(
    values=st.lists(st.lists(st.floats(-4, 4), min_size=3, max_size=3), min_size=1, max_size=6),
    tasks=st.integers(0, 4),
    threshold=st.floats(0, 1),
)
def test_it_is_the_loop_of_its_formula(values, tasks, threshold):
    total = [0.0] * 3
    for row in values:
        total = [a + b for a, b in zip(total, row, strict=True)]
    expected = [
        0.7 * t if sum(abs(row[j]) > threshold * abs(t - row[j]) for row in values) >= tasks else 0.0
        for j, t in enumerate(total)
    ]
    assert merge(values, tasks=tasks, threshold=threshold, scale=0.7) == pytest.approx(expected)
