"""`mergeline bench training`: both loops do the same work."""

import pytest
import torch

from flows.training_bench import _case, bare_loop, measure_training
from merge_lib.errors import SpecError
from merge_lib.workloads.training.config import TrainingConfig
from merge_lib.workloads.training.devices import training_device
from merge_lib.workloads.training.loop import train


def test_both_loops_give_the_same_model():
    case = _case("vit")
    config = TrainingConfig(steps=3, batch_size=32, learning_rate=1e-4)
    bare, ours = (case.make().to(training_device()) for _ in range(2))
    bare_loop(case, config, training_device(), bare)
    train(ours, case.lesson, config, generator=torch.Generator().manual_seed(0))
    theirs = ours.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in bare.state_dict().items())


def test_times_and_their_spread():
    (line,) = measure_training(["vit"], 2, steps=2)
    assert line.name == "vit"
    assert line.parameters > 100_000
    assert 0 < line.least_ratio <= line.ratio <= line.most_ratio
    assert line.examples_per_s == pytest.approx(32 / line.step_s)


def test_an_unknown_model_is_told():
    with pytest.raises(SpecError, match=r"no model 'vti' to time\. Known: vit, vit-base, llama, llama-1b"):
        measure_training(["vti"], 1)
