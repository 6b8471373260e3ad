"""Cases of a few entries, computed by hand, and slow float64 loops that spell the formulas out."""

import math

import pytest
import torch

import merge_lib
from merge_lib.ops.chance import TensorGenerator


def merge(method, experts, base=None, **params):
    """One tensor of float64 in, one list out."""
    stack = [{"w": torch.tensor(expert, dtype=torch.float64)} for expert in experts]
    start = None if base is None else {"w": torch.tensor(base, dtype=torch.float64)}
    return merge_lib.merge(method, stack, start, **params)["w"].tolist()


def random_case(count=4, size=23):
    generator = torch.Generator().manual_seed(7)
    rows = torch.randn(count + 1, size, generator=generator, dtype=torch.float64).tolist()
    return rows[0], rows[1:]


def test_average():
    assert merge("average", [[1.0, -2.0, 0.0], [3.0, 2.0, 0.5]]) == [2.0, 0.0, 0.25]


def test_running_average_is_the_mean_after_every_expert():
    assert merge("running_average", [[1.0, 8.0], [3.0, 0.0], [8.0, 1.0]]) == [4.0, 3.0]
    assert merge("running_average", [[1.0, 8.0], [3.0, 0.0]]) == [2.0, 4.0]


def test_ema_weighs_the_newest():
    # ((1·0.75 + 5·0.25)·0.75 + 10·0.25) = 2·0.75 + 2.5 = 4
    assert merge("ema", [[1.0], [5.0], [10.0]], weight=0.25) == [4.0]
    assert merge("ema", [[1.0], [5.0], [10.0]], weight=0) == [1.0]
    assert merge("ema", [[1.0], [5.0], [10.0]], weight=1) == [10.0]


def test_linear():
    assert merge("linear", [[0.0, 4.0], [8.0, -4.0]], position=0.25) == [2.0, 2.0]
    # folded from the left: (0, 8) -> 2, (2, 10) -> 4
    assert merge("linear", [[0.0], [8.0], [10.0]], position=0.25) == [4.0]


@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_the_ends_are_exact_to_the_bit(method):
    left = torch.tensor([0.1, -0.0, 1e-40, 3.0])
    right = torch.tensor([-0.7, 2.0, -0.0, 1e30])
    for position, end in ((0.0, left), (1.0, right)):
        merged = merge_lib.merge(method, [{"w": left}, {"w": right}], position=position)["w"]
        assert torch.equal(merged.view(torch.int32), end.view(torch.int32))


def test_slerp_of_tensors_that_are_not_normalised():
    # a right angle: sin 45° / sin 90° = 0.7071 of each
    assert merge("slerp", [[1.0, 0.0], [0.0, 2.0]]) == pytest.approx([math.sqrt(0.5), math.sqrt(2)])
    # a third of a right angle: sin 60°, sin 30°
    third = merge("slerp", [[1.0, 0.0], [0.0, 2.0]], position=1 / 3)
    assert third == pytest.approx([math.sqrt(3) / 2, 1.0])


@pytest.mark.parametrize(
    ("left", "right"),
    [([1.0, 2.0], [2.0, 4.0]), ([1.0, 2.0], [-1.0, -2.0]), ([0.0, 0.0], [3.0, 1.0]), ([1.0], [-5.0])],
)
def test_slerp_is_linear_where_there_is_no_arc(left, right):
    expected = [0.75 * a + 0.25 * b for a, b in zip(left, right, strict=True)]
    assert merge("slerp", [left, right], position=0.25) == pytest.approx(expected)


def test_slerp_keeps_the_norm_of_equally_long_tensors():
    _, experts = random_case(2)
    a, b = (torch.tensor(row) / torch.tensor(row).norm() for row in experts)
    merged = merge("slerp", [a.tolist(), b.tolist()], position=0.3)
    assert math.hypot(*merged) == pytest.approx(1.0)


def test_slerp_folds_from_the_left():
    _, (a, b, c) = random_case(3)
    first = merge("slerp", [a, b], position=0.3)
    assert merge("slerp", [a, b, c], position=0.3) == pytest.approx(merge("slerp", [first, c], position=0.3))


def test_task_arithmetic():
    # base 1, task vectors +2 and −1, times 0.3
    assert merge("task_arithmetic", [[3.0], [0.0]], [1.0], scale=0.3) == pytest.approx([1.3])


def test_ties_elects_the_sign_without_weights():
    # task vectors +3 and −2, nothing trimmed: plus wins 3 to 2, the mean of those that agree is 3
    assert merge("ties", [[3.0], [-2.0]], [0.0], density=1) == [3.0]
    assert merge("ties", [[3.0], [-2.0]], [0.0], density=1, scale=0.3) == pytest.approx([0.9])


def test_ties_by_hand():
    base = [10.0, 10.0, 10.0, 10.0, 10.0]
    one = [14.0, 9.0, 12.0, 10.5, 10.1]  # +4 −1 +2 +0.5 +0.1: the largest three are +4 +2 −1
    two = [12.0, 4.0, 7.0, 10.2, 10.3]  # +2 −6 −3 +0.2 +0.3: the largest three are −6 −3 +2
    # sums +6 −7 −1 0 0; agreeing means 3, −3.5, −3, none, none
    assert merge("ties", [one, two], base, density=0.6) == [13.0, 6.5, 7.0, 10.0, 10.0]


def test_ties_trims_over_the_whole_model():
    base = {"a": torch.zeros(2), "b": torch.zeros(2)}
    expert = {"a": torch.tensor([5.0, -4.0]), "b": torch.tensor([0.5, -0.25])}
    whole = merge_lib.merge("ties", [expert], base, density=0.5)
    assert (whole["a"].tolist(), whole["b"].tolist()) == ([5.0, -4.0], [0.0, 0.0])
    each = merge_lib.merge("ties", [expert], base, density=0.5, trim="tensor")
    assert (each["a"].tolist(), each["b"].tolist()) == ([5.0, 0.0], [0.5, 0.0])


def test_ties_where_entries_cancel_elects_plus():
    assert merge("ties", [[2.0], [-2.0]], [0.0], density=1) == [2.0]


def test_ties_keeps_all_that_equal_the_smallest_one_kept():
    assert merge("ties", [[1.0, -1.0, 1.0, 0.5]], [0.0] * 4, density=0.5) == [1.0, -1.0, 1.0, 0.0]


@pytest.mark.parametrize("density", [0.2, 0.5, 0.9])
def test_ties_is_the_loop_of_its_formula(density):
    base, experts = random_case()
    vectors = [[e - b for e, b in zip(row, base, strict=True)] for row in experts]
    kept = max(1, int(density * len(base) + 0.5))
    trimmed = []
    for vector in vectors:
        bar = sorted((abs(x) for x in vector), reverse=True)[kept - 1]
        trimmed.append([x if abs(x) >= bar else 0.0 for x in vector])
    expected = []
    for j, start in enumerate(base):
        column = [vector[j] for vector in trimmed]
        sign = 1 if sum(column) >= 0 else -1
        agreeing = [x for x in column if x * sign > 0]
        expected.append(start + 0.7 * (sum(agreeing) / len(agreeing) if agreeing else 0.0))
    for trim in ("model", "tensor"):
        assert merge("ties", experts, base, density=density, scale=0.7, trim=trim) == pytest.approx(expected)


def test_dare_divides_what_it_keeps_by_the_density():
    generator = TensorGenerator(seed=3, tensor="w")
    masks = [generator.keep(index, (5,), 0.5).tolist() for index in range(2)]
    vectors = [[1.0, 2.0, 3.0, 4.0, 5.0], [-1.0, 1.0, -1.0, 1.0, -1.0]]
    expected = [
        0.3 * sum(vector[j] / 0.5 for vector, mask in zip(vectors, masks, strict=True) if mask[j])
        for j in range(5)
    ]
    assert merge("dare", vectors, [0.0] * 5, density=0.5, scale=0.3, seed=3) == pytest.approx(expected)


def test_dare_is_unbiased():
    merged = merge("dare", [[1.0] * 40_000], [0.0] * 40_000, density=0.25, scale=1)
    assert set(merged) == {0.0, 4.0}
    # standard error of the mean: sqrt(3 / 40000) = 0.0087
    assert sum(merged) / len(merged) == pytest.approx(1.0, abs=0.03)


def test_magmax_takes_the_largest_change_and_of_equal_ones_the_later():
    experts = [[3.0, -1.0, 2.0], [-2.0, -4.0, -2.0], [1.0, 0.0, 0.5]]
    assert merge("magmax", experts, [0.0] * 3, scale=1) == [3.0, -4.0, -2.0]
    assert merge("magmax", experts, [0.0] * 3) == [1.5, -2.0, -1.0]


def test_continual_methods_are_the_loops_of_their_formulas():
    base, experts = random_case()
    mean, moving, strongest = list(experts[0]), list(experts[0]), [0.0] * len(base)
    for t, row in enumerate(experts, start=1):
        for j, value in enumerate(row):
            mean[j] = ((t - 1) * mean[j] + value) / t
            moving[j] = 0.6 * moving[j] + 0.4 * value
            if abs(value - base[j]) >= abs(strongest[j]):
                strongest[j] = value - base[j]
    assert merge("running_average", experts) == pytest.approx(mean)
    assert merge("ema", experts, weight=0.4) == pytest.approx(moving)
    assert merge("magmax", experts, base) == pytest.approx(
        [b + 0.5 * s for b, s in zip(base, strongest, strict=True)]
    )
