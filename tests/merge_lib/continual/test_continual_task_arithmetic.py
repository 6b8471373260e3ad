import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import merge_lib

EXPERTS = [[2.0, 0.0], [1.0, 3.0], [-4.0, 1.0]]


def merged(experts, base, method="continual_task_arithmetic", **params):
    stack = [{"w": torch.tensor(expert, dtype=torch.float64)} for expert in experts]
    return merge_lib.merge(method, stack, {"w": torch.tensor(base, dtype=torch.float64)}, **params)["w"]


def test_by_hand():
    # task vectors from (1, 1): (1, −1), (0, 2), (−5, 0); their sum (−4, 1)
    assert merged(EXPERTS, [1.0, 1.0], scale=0.5).tolist() == [-1.0, 1.5]
    assert merged(EXPERTS[:1], [1.0, 1.0], scale=0.5).tolist() == [1.5, 0.5]


def test_the_recursion_of_the_merged_weights():
    base, scale = torch.tensor([1.0, 1.0], dtype=torch.float64), 0.3
    weights = base.clone()
    for expert in EXPERTS:
        weights = weights + scale * (torch.tensor(expert, dtype=torch.float64) - base)
    torch.testing.assert_close(merged(EXPERTS, [1.0, 1.0]), weights)


def test_two_hundred_experts_and_opposite_ones():
    assert torch.equal(merged([[1.5, 0.5], [0.5, 1.5]] * 100, [1.0, 1.0]), torch.ones(2, dtype=torch.float64))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.floats(-8, 8, width=32), min_size=3, max_size=3), min_size=1, max_size=6))
def test_it_is_task_arithmetic_to_the_bit(experts):
    base = [0.5, -1.0, 0.0]
    assert torch.equal(merged(experts, base, scale=0.3), merged(experts, base, "task_arithmetic", scale=0.3))
