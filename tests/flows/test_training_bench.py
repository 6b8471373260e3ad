"""`mergeline bench training`: both loops do the same work."""

from math import comb

import pytest
import torch

from flows.training_bench import LIMIT_RATIO, bare_loop, measure_training, median_bounds
from flows.training_cases import case_of
from merge_lib.errors import SpecError
from merge_lib.workloads.training.config import TrainingConfig
from merge_lib.workloads.training.devices import training_device
from merge_lib.workloads.training.loop import train


def test_both_loops_give_the_same_model():
    case = case_of("vit")
    config = TrainingConfig(steps=3, batch_size=32, learning_rate=1e-4)
    bare, ours = (case.make().to(training_device()) for _ in range(2))
    bare_loop(case, config, training_device(), bare)
    train(ours, case.lesson, config, generator=torch.Generator().manual_seed(0))
    theirs = ours.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in bare.state_dict().items())


def test_times_and_where_their_ratio_lies():
    (line,) = measure_training(["vit"], 1, steps=1)
    assert line.name == "vit"
    assert line.parameters > 100_000
    assert 0 < line.low_ratio <= line.ratio <= line.high_ratio
    assert line.examples_per_s == pytest.approx(32 / line.step_s)
    assert 1 <= line.rounds <= 4
    assert line.is_decided or (line.rounds == 4 and line.low_ratio <= LIMIT_RATIO < line.high_ratio)


def test_bounds_of_a_median_are_order_statistics():
    assert median_bounds([3.0, 1.0, 2.0]) == (1.0, 3.0)
    values = [float(value) for value in range(1, 18)]
    low, high = median_bounds(values[::-1])
    assert (low, high) == (5.0, 13.0)  # P(Binomial(17, 1/2) <= 4) is 0.0245, with 5 it is 0.072
    assert sum(comb(17, i) for i in range(5)) / 2**17 <= 0.025 < sum(comb(17, i) for i in range(6)) / 2**17


def test_an_unknown_model_is_told():
    with pytest.raises(SpecError, match=r"no model 'vti' to time\. Known: vit, vit-base, llama, llama-1b"):
        measure_training(["vti"], 1)
