"""What is kept of the steps of a training."""

import math

from merge_lib.workloads.training.curves import Curves


def test_joined_steps_have_the_mean_loss_and_the_largest_norm():
    curves = Curves()
    for loss, norm in zip((5.0, 1.0, 2.0, 3.0, 8.0), (1.0, 4.0, 2.0, math.inf, 3.0), strict=True):
        curves.add(loss=loss, learning_rate=loss / 10, gradient_norm=norm)
    joined = curves.joined(3)  # pairs from the end; the first is alone
    assert joined.step == [1, 3, 5]
    assert joined.loss == [5.0, 1.5, 5.5]
    assert joined.learning_rate == [0.5, 0.2, 0.8]
    assert joined.gradient_norm == [1.0, 4.0, 3.0]  # what is not finite is no norm


def test_few_steps_are_left_as_they_are():
    curves = Curves([1, 2], [0.5, 0.25], [1.0, 1.0], [3.0, 4.0])
    assert curves.joined() == curves
    assert Curves().joined() == Curves()
