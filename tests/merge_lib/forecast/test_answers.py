"""What unlabelled inputs say of a merge."""

import math

import pytest
import torch
from torch import nn

from merge_lib.errors import DataError
from merge_lib.forecast.answers import INPUT_NAMES, Asked, Examiner
from merge_lib.probe import Batch

INPUTS = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
BASE = {"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}
EXPERT = {"weight": 2 * torch.eye(2), "bias": torch.zeros(2)}


class Plane:
    """Two inputs, one linear layer, two answers."""

    def module(self, state):
        layer = nn.Linear(2, 2)
        layer.load_state_dict(state)
        return layer.eval()

    def batches(self, task, *, split, count, seed, size):
        for some in INPUTS[:count].split(size) if task != "empty" else ():
            yield Batch(some, torch.full((len(some),), -1))  # a label must not matter

    def logits(self, model, batch, task):
        return model(batch.inputs)


def examined(merged, **asked):
    return Examiner(Plane(), ["only"], BASE, [EXPERT], Asked(**asked)).examine([merged])[0]


def test_the_expert_itself():
    row = examined(EXPERT)
    sure = math.e**2 / (math.e**2 + 1)
    assert tuple(row) == INPUT_NAMES
    assert row["agreement"] == 1
    assert row["base agreement"] == 0.5  # it always says the first
    assert (
        row["expert's confidence"] == row["merge's confidence"] == row["answer kept"] == pytest.approx(sure)
    )
    for name in ("probability shift", "logit shift", "movement (output)", "movement (early)"):
        assert row[name] == 0


def test_a_merge_that_turned_round():
    row = examined({"weight": -2 * torch.eye(2), "bias": torch.zeros(2)})
    unsure = 1 / (math.e**2 + 1)
    assert row["agreement"] == 0
    assert row["answer kept"] == pytest.approx(unsure)
    assert row["probability shift"] == pytest.approx(1 - 2 * unsure)
    assert row["logit shift"] == pytest.approx(math.log(3))  # twice as far as the expert is long
    assert row["movement (output)"] == pytest.approx(math.log(3))
    assert row["movement (middle)"] == row["movement (output)"]  # nothing lies there


def test_a_base_as_merge_has_the_base_s_agreement():
    row = examined(BASE)
    assert row["agreement"] == row["base agreement"]


def test_batches_change_nothing():
    merged = {"weight": torch.tensor([[1.0, 0.5], [0.2, 1.0]]), "bias": torch.zeros(2)}
    assert examined(merged, batch_size=1) == pytest.approx(examined(merged, batch_size=64))


def test_only_as_many_inputs_as_asked():
    row = examined({"weight": torch.tensor([[2.0, 2.0], [0.0, 0.0]]), "bias": torch.zeros(2)}, examples=1)
    assert row["agreement"] == 1


def test_a_task_without_inputs():
    with pytest.raises(DataError, match="Task 'empty' has no examples in its validation split"):
        Examiner(Plane(), ["empty"], BASE, [EXPERT])
