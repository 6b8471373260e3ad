import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import merge_lib
from merge_lib.methods.localize_and_stitch import localize_and_stitch
from merge_lib.ops.quantile import begin_thresholds
from merge_lib.trail import TakenTrail


def merge(tensors, **params):
    """A model with a base of zeros: [tensor][expert][entry] in, lists out."""
    experts = [
        {f"t{i}": torch.tensor(rows[e], dtype=torch.float64) for i, rows in enumerate(tensors)}
        for e in range(len(tensors[0]))
    ]
    base = {name: torch.zeros_like(tensor) for name, tensor in experts[0].items()}
    merged = merge_lib.merge("localize_and_stitch", experts, base, **params)
    return [merged[name].tolist() for name in sorted(merged)]


def test_by_hand():
    # half of each: 4 and −2; 6 and 3: only the second entry is in both masks, (−2 + 6) / 2
    assert merge([[[4, -2, 1, 0.5], [1, 6, 3, 2]]], density=0.5) == [[4, 2, 3, 0]]


def test_the_largest_of_the_whole_model():
    assert merge([[[5, -4]], [[0.5, -0.25]]], density=0.5) == [[5, -4], [0, 0]]


def test_an_expert_that_changed_nothing_thins_out_nobody():
    assert merge([[[0, 0], [3, 1]]], density=1) == [[3, 1]]
    assert merge([[[0, 0], [0, 0]]], density=0.5) == [[0, 0]]


def test_opposite_experts_and_one():
    assert merge([[[2.0], [-2.0]]]) == [[0]]
    assert merge([[[2.0, 1.0]]], density=0.5) == [[2, 0]]


def test_what_it_notes():
    trail = TakenTrail()
    everything = begin_thresholds(2, torch.float64, share=1)
    localize_and_stitch(torch.tensor([[1.0, 0, 2, 0], [1, 1, 0, 0]]).double(), everything, trail=trail)
    assert trail.notes["share kept"] == [0.5, 0.5]
    assert trail.notes["share overlapping"] == pytest.approx([1 / 3])


@given(
    values=st.lists(st.lists(st.integers(-5, 5), min_size=6, max_size=6), min_size=1, max_size=5),
    density=st.sampled_from([0.2, 0.5, 0.8, 1.0]),
    split=st.integers(0, 6),
)
def test_it_is_the_loop_of_its_formula(values, density, split):
    kept = max(1, int(density * 6 + 0.5))
    limits = [sorted(map(abs, row), reverse=True)[kept - 1] for row in values]
    expected = []
    for j in range(6):
        chosen = [
            row[j] for row, limit in zip(values, limits, strict=True) if row[j] and abs(row[j]) >= limit
        ]
        expected.append(sum(chosen) / len(chosen) if chosen else 0)
    first, second = merge([[row[:split] for row in values], [row[split:] for row in values]], density=density)
    assert first + second == expected
