"""What the study of cues takes for granted of interpolation and averages, in numbers.

The toy: `d = (clean, colour, noise)` is what a linear model knows; the base knows the first alone, an expert adds its
cue, and one that is trained from another expert keeps a share rho of the cue before.
"""

import pytest
import torch

import merge_lib

BASE = (1.0, 0.0, 0.0)
COLOUR = (1.0, 1.0, 0.0)


def model(values, dtype=torch.float64):
    return {"d": torch.tensor(values, dtype=dtype)}


def between(first, second, position):
    return merge_lib.merge("linear", [model(first), model(second)], position=position)["d"].tolist()


def random_models(n, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [{"w": torch.randn(4, 3, generator=generator).to(dtype)} for _ in range(n)]


def test_the_ends_are_the_experts_bit_for_bit():
    first, second = random_models(2)
    first["w"][0, 0] = -0.0
    for position, expert in ((0.0, first), (1.0, second)):
        merged = merge_lib.merge("linear", [first, second], position=position)["w"]
        assert torch.equal(merged.view(torch.int32), expert["w"].view(torch.int32))


@pytest.mark.parametrize("position", [0.1, 0.25, 0.5, 0.9])
def test_the_line_is_the_same_from_its_other_end(position):
    first, second = random_models(2)
    forth = merge_lib.merge("linear", [first, second], position=position)["w"]
    back = merge_lib.merge("linear", [second, first], position=1 - position)["w"]
    assert torch.allclose(forth, back, rtol=0, atol=1e-7)


@pytest.mark.parametrize("position", [0.0, 0.3, 0.5, 1.0])
def test_identical_experts_are_their_own_merge(position):
    first = random_models(1)[0]
    merged = merge_lib.merge("linear", [first, first], position=position)["w"]
    assert torch.allclose(merged, first["w"], rtol=0, atol=1e-7)


def test_a_linear_model_answers_the_blend_of_the_answers():
    first, second = random_models(2, dtype=torch.float64)
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    merged = merge_lib.merge("linear", [first, second], position=0.3)["w"]
    blend = 0.7 * inputs @ first["w"].T + 0.3 * inputs @ second["w"].T
    assert torch.allclose(inputs @ merged.T, blend, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("rho", "expected"), [(0.0, (1.0, 0.5, 0.5)), (0.6, (1.0, 0.8, 0.5)), (1.0, (1.0, 1.0, 0.5))]
)
def test_incremental_training_keeps_more_of_the_first_cue(rho, expected):
    parallel, incremental = (1.0, 0.0, 1.0), (1.0, rho, 1.0)
    assert between(COLOUR, incremental, 0.5) == pytest.approx(expected)
    assert between(COLOUR, parallel, 0.5) == pytest.approx((1.0, 0.5, 0.5))
    assert between(COLOUR, incremental, 0.0) == between(COLOUR, parallel, 0.0)  # endpoint 1 is the same model


def test_average_of_five_orthogonal_cues():
    unit = torch.eye(5, dtype=torch.float64)
    parallel = [{"d": row} for row in unit]
    incremental = [{"d": unit[: t + 1].sum(0)} for t in range(5)]  # nothing of what came before is lost
    shared = [{"d": torch.ones(1, dtype=torch.float64)} for _ in range(5)]
    assert merge_lib.merge("average", parallel)["d"].tolist() == pytest.approx([0.2] * 5)
    assert merge_lib.merge("average", incremental)["d"].tolist() == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    assert merge_lib.merge("average", shared)["d"].tolist() == [1.0]


def test_the_running_average_is_the_average_in_any_order_and_the_moving_one_is_not():
    experts = random_models(5)
    average = merge_lib.merge("average", experts)["w"]
    for order in ((0, 1, 2, 3, 4), (3, 1, 4, 0, 2)):
        chosen = [experts[at] for at in order]
        running = merge_lib.merge("running_average", chosen)["w"]
        moving = merge_lib.merge("ema", chosen, weight=0.3)["w"]
        assert torch.allclose(running, average, rtol=0, atol=1e-6)
        assert not torch.allclose(moving, average, rtol=0, atol=1e-2)


def test_whole_numbers_and_ties_are_as_they_were():
    shared = torch.ones(2)
    first = {"a": shared, "b": shared, "steps": torch.tensor(7)}
    tied = torch.full((2,), 3.0)
    second = {"a": tied, "b": tied, "steps": torch.tensor(7)}
    merged = merge_lib.merge("linear", [first, second], position=0.5)
    assert torch.equal(merged["steps"], torch.tensor(7))
    assert merged["steps"].dtype == torch.int64
    assert torch.equal(merged["a"], merged["b"])
    assert merged["a"].tolist() == [2.0, 2.0]
