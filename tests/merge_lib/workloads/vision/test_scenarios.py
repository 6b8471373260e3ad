"""Logits to outputs, worked by hand on two tasks of two classes: (1, 0) and (3, 2) of the base's five."""

import math

import pytest
import torch

from merge_lib.workloads.vision.scenarios import ScenarioMap

TASKS = [[1, 0], [3, 2]]
LOGITS = torch.tensor([[0.0, math.log(2), math.log(3), math.log(4), 50.0]])


def mapping(scenario):
    return ScenarioMap(scenario, TASKS)


def outputs(scenario, task):
    return mapping(scenario).outputs(LOGITS, torch.tensor([task]))[0].exp()


def test_task_incremental_has_the_classes_of_the_task():
    torch.testing.assert_close(outputs("task-incremental", 0), torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(outputs("task-incremental", 1), torch.tensor([4.0, 3.0]))
    assert mapping("task-incremental").chance == (0.5, 0.5)


@pytest.mark.parametrize("task", [0, 1])
def test_class_incremental_has_the_classes_of_all_tasks(task):
    torch.testing.assert_close(outputs("class-incremental", task), torch.tensor([2.0, 1.0, 4.0, 3.0]))
    assert mapping("class-incremental").chance == (0.25, 0.25)


@pytest.mark.parametrize("task", [0, 1])
def test_domain_incremental_adds_up_the_classes_at_a_position(task):
    torch.testing.assert_close(outputs("domain-incremental", task), torch.tensor([2.0 + 4.0, 1.0 + 3.0]))
    assert mapping("domain-incremental").chance == (0.5, 0.5)


@pytest.mark.parametrize(
    ("scenario", "task", "expected"),
    [
        ("task-incremental", 1, [0, 1, 1]),
        ("class-incremental", 0, [0, 1, 1]),
        ("class-incremental", 1, [2, 3, 3]),
        ("domain-incremental", 1, [0, 1, 1]),
    ],
)
def test_targets(scenario, task, expected):
    assert mapping(scenario).targets(torch.tensor([0, 1, 1]), task).tolist() == expected


def test_class_outside_the_study_counts_for_nothing():
    scores = mapping("class-incremental").outputs(LOGITS, torch.tensor([0]))
    assert scores.max() < 2  # the logit of 50 belongs to no task


def test_each_example_is_read_in_its_own_task():
    scores = mapping("task-incremental").outputs(LOGITS.expand(2, -1), torch.tensor([1, 0]))
    torch.testing.assert_close(scores.exp(), torch.tensor([[4.0, 3.0], [2.0, 1.0]]))


def test_tasks_of_different_sizes():
    mixed = ScenarioMap("task-incremental", [[0, 1, 2], [3, 4]])
    scores = mixed.outputs(LOGITS.expand(2, -1), torch.tensor([0, 1]))
    assert mixed.chance == pytest.approx((1 / 3, 1 / 2))
    torch.testing.assert_close(scores[0].exp(), torch.tensor([1.0, 2.0, 3.0]))
    assert scores[1].softmax(0)[2] == 0.0  # the shorter task has no third output


def test_absent_outputs_pass_no_nan_back():
    mixed = ScenarioMap("task-incremental", [[0, 1, 2], [3, 4]])
    logits = torch.zeros(1, 5, requires_grad=True)
    torch.nn.functional.cross_entropy(mixed.outputs(logits, torch.tensor([1])), torch.tensor([0])).backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.0, 0.0, 0.0, -0.5, 0.5]]))


def test_shared_class_has_one_output():
    assert ScenarioMap("class-incremental", [[0, 1], [1, 2]]).chance == pytest.approx((1 / 3, 1 / 3))
