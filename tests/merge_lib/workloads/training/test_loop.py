"""The training loop, apart from any workload."""

import pytest
import torch
from torch import nn

from merge_lib.errors import SpecError, TrainingError
from merge_lib.workloads.training.config import TrainingConfig
from merge_lib.workloads.training.devices import training_device
from merge_lib.workloads.training.loop import step_count
from merge_lib.workloads.training.parameters import trainable_parameters
from merge_lib.workloads.training.schedule import Schedule


def test_a_model_learns_and_says_how(network, fit):
    model = network()
    course = fit(model, epochs=10)
    assert course.steps == 60
    assert len(course.losses) == 10
    assert course.losses[-1] < 0.5 * course.losses[0]
    assert course.curves.step == list(range(1, 61))
    assert course.curves.loss[:6] == pytest.approx([course.curves.loss[n] for n in range(6)])
    assert sum(course.curves.loss[:6]) / 6 == pytest.approx(course.losses[0])
    assert all(norm > 0 for norm in course.curves.gradient_norm)
    config = TrainingConfig(epochs=10, learning_rate=1e-2)
    assert course.curves.learning_rate == [Schedule(config, 60).rate(step) for step in range(60)]


def test_same_seed_same_values_and_the_global_generator_is_left_alone(network, fit, same):
    one, again, other = network(), network(), network()
    before = torch.random.get_rng_state()
    for model, seed in zip((one, again, other), (1, 1, 2), strict=True):
        fit(model, seed=seed)
    assert same(one, again)
    assert not same(one, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_result_is_that_of_a_bare_loop(network, lesson, fit, same):
    bare, model, words = network().to(training_device()), network().to(training_device()), lesson()
    fit(model, words, seed=3)
    generator = torch.Generator().manual_seed(3)
    optimizer = torch.optim.AdamW(bare.parameters(), lr=1e-2, weight_decay=0.01, fused=True)
    config = TrainingConfig(epochs=3, learning_rate=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, Schedule(config, 18).factor)
    for _ in range(3):
        for rows in torch.randperm(words.size, generator=generator).split(8):
            batch = words.batch(rows, generator)
            words.loss(bare, {name: one.to(training_device()) for name, one in batch.items()}).backward()
            nn.utils.clip_grad_norm_(bare.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    assert same(model, bare)


def test_length_in_steps(network, fit):
    course = fit(network(), epochs=None, steps=8)
    assert course.steps == 8
    assert len(course.losses) == 2  # an epoch of six steps, and two steps of the next
    assert step_count(17, TrainingConfig(epochs=2, batch_size=8, learning_rate=1.0)) == 6


@pytest.mark.parametrize(
    ("shape", "middle", "last"), [("cosine", 0.5, 0.0), ("linear", 0.5, 0.0), ("constant", 1.0, 1.0)]
)
def test_learning_rate_rises_then_goes_its_way(shape, middle, last):
    # 10 steps, 2 of warm-up: 1/2, 1, then the shape over 8 steps
    schedule = Schedule(TrainingConfig(epochs=1, learning_rate=2.0, warmup=0.2, schedule=shape), 10)
    assert [schedule.factor(step) for step in range(3)] == [0.5, 1.0, 1.0]
    assert schedule.factor(6) == pytest.approx(middle)
    assert schedule.factor(10) == schedule.factor(14) == pytest.approx(last)
    assert schedule.rate(0) == 1.0


def test_a_loss_that_is_not_finite_stops_the_training(network, lesson, fit):
    words = lesson()
    words.words[:] = torch.inf
    with pytest.raises(
        TrainingError, match=r"loss is nan at step 1 of 18.*lower `learning_rate` \(now 0.01\)"
    ):
        fit(network(), words)


def test_a_gradient_that_is_not_finite_stops_the_training(network, lesson, fit):
    class Steep(type(lesson())):
        def loss(self, model, batch):
            logits = model(batch["words"])
            return (logits - logits.detach()).abs().sqrt().sum()  # 0, with an infinite slope

    with pytest.raises(TrainingError, match="gradient is nan at step 1 of 18"):
        fit(network(), Steep())


def test_progress_is_told_and_may_stop_the_training(network, fit):
    told = []
    fit(network(), progress=lambda done, total: told.append((done, total)))
    assert told == [(10, 18), (18, 18)]

    def stop(_done, _total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(network(), progress=stop)


def test_frozen_parameters_keep_their_values(network, fit):
    model = network()
    fit(model, freeze=["second", "*.bias"])
    before = network().state_dict()
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {"first.weight"}


@pytest.mark.parametrize(
    ("pattern", "message"), [("haed", "'haed' names no parameter"), ("*", "every parameter")]
)
def test_wrong_freeze_patterns(network, pattern, message):
    with pytest.raises(SpecError, match=message):
        trainable_parameters(network(), [pattern])


def test_early_stopping_brings_the_best_weights_back(network, fit, same):
    values = iter([0.5, 0.7, 0.69, 0.7, 0.6, 0.9])
    seen = []

    def validate(model):
        assert not model.training
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return next(values)

    model, told = network(), []
    course = fit(
        model,
        epochs=8,
        early_stopping={"patience": 3, "min_delta": 0.005},
        validate=validate,
        progress=lambda done, total: told.append((done, total)),
    )
    assert course.stopped_early
    assert told == [(10, 48), (20, 48), (48, 48)]
    assert course.steps == 5 * 6  # the second epoch was best, then three that were not
    assert all(torch.equal(value, seen[1][name]) for name, value in model.state_dict().items())
    assert len(course.losses) == 5


def test_the_best_weights_are_kept_even_if_nothing_stops(network, fit, same):
    best, values = network(), iter([0.1, 0.9, 0.2])
    fit(best, epochs=None, steps=8, warmup=0.0, schedule="constant")
    model = network()
    settings = {"every": 4, "patience": 3}
    course = fit(
        model,
        **{"epochs": None, "steps": 10, "warmup": 0.0, "schedule": "constant"},
        early_stopping=settings,
        validate=lambda _: next(values),
    )
    assert not course.stopped_early
    assert course.steps == 10  # looks after 4, 8 and at the end
    assert same(model, best)


def test_early_stopping_needs_something_to_look_at(network, fit):
    with pytest.raises(SpecError, match="`early_stopping` needs a validation value"):
        fit(network(), early_stopping={})
