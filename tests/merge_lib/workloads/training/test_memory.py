"""Micro-batches, and what happens when memory runs out."""

import re

import pytest
import torch

from merge_lib.errors import TrainingError


def largest_difference(one, other):
    theirs = other.state_dict()
    return max(float((value - theirs[name]).abs().max()) for name, value in one.state_dict().items())


@pytest.mark.parametrize("micro_batch", [1, 3, 4])
def test_micro_batches_give_what_the_batch_gives(network, lesson, fit, micro_batch):
    whole, parts, words = network().double(), network().double(), lesson(dtype=torch.float64)
    fit(whole, words)
    words.largest = 0
    course = fit(parts, words, micro_batch=micro_batch)
    assert words.largest == micro_batch
    assert course.micro_batch == micro_batch
    assert largest_difference(whole, parts) < 1e-9  # words count alike, however many an example has


def test_too_little_memory_halves_the_micro_batch(network, lesson, fit, caplog):
    roomy, tight = network().double(), network().double()
    course = fit(roomy, lesson(dtype=torch.float64))
    assert course.micro_batch is None
    course = fit(tight, lesson(most=3, dtype=torch.float64))
    assert course.micro_batch == 2
    assert course.curves.step == list(range(1, 19))
    assert largest_difference(roomy, tight) < 1e-9
    assert re.search(r"8 examples at once do not fit into the memory of .*; going on with 4", caplog.text)


def test_one_example_that_does_not_fit_is_told(network, lesson, fit):
    with pytest.raises(TrainingError, match=r"One example does not fit into the memory of .*gradient_checkp"):
        fit(network(), lesson(most=0))


def test_other_errors_of_the_model_are_not_taken_for_too_little_memory(network, lesson, fit):
    words = lesson()
    words.words = words.words[..., :2]
    with pytest.raises(RuntimeError, match="size of tensor"):
        fit(network(), words)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_trains_nearly_the_same(network, fit, precision):
    exact, lower = network(), network()
    fit(exact)
    course = fit(lower, precision=precision)
    assert 0.0 < largest_difference(exact, lower) < 0.05
    assert course.losses[-1] < course.losses[0]
    assert all(value.dtype == torch.float32 for value in lower.state_dict().values())


def test_steps_that_overflow_fp16_are_skipped_then_told(network, lesson, fit):
    class Steep(type(lesson())):
        def loss(self, model, batch):
            return super().loss(model, batch) * 1e30

    with pytest.raises(TrainingError, match=r"gradient is .* at step 21 .*take `precision: bf16`"):
        fit(network(), Steep(), precision="fp16", epochs=6)
