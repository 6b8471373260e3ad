"""Recurrent-KIF as a training: what `merge_lib.recurrent` computes, step after step of a real optimiser."""

import pytest
import torch

from merge_lib.errors import SpecError
from merge_lib.recurrent import replay_batch
from merge_lib.recurrent.recurrence import CODE, PAPER, RoundCount
from merge_lib.workloads.learners import RecurrentKif
from merge_lib.workloads.learners.rounds import learn
from merge_lib.workloads.training.config import EarlyStopping
from merge_lib.workloads.training.order import Order
from merge_lib.workloads.training.stepping import Stepper

ONES = {"shared": (1, 1), "new": (1, 1), "historical": (1, 1), "redundant": (1, 1)}


def kif(**params):
    return RecurrentKif(**({"share": 0.2, "inner_steps": 4, "outer_steps": 2, "select_every": 0} | params))


def test_presets_fill_in_what_is_not_given():
    assert RecurrentKif().recurrence == CODE
    assert RecurrentKif(preset="paper").recurrence == PAPER
    mixed = RecurrentKif(preset="paper", decay=0.9, inner_steps=2)
    assert (mixed.decay, mixed.inner_steps, mixed.score, mixed.weights) == (0.9, 2, "mean", "paper")
    again = RecurrentKif.model_validate(mixed.model_dump(mode="json"))
    assert again == mixed


@pytest.mark.parametrize(("is_declared", "settings"), [(True, RecurrentKif()), (False, kif())])
def test_looks_at_development_examples_are_declared(is_declared, settings):
    assert settings.held_out == (25 if is_declared else 0)


def test_as_many_fusions_as_whole_rounds_and_the_last_steps_stay_unfused(make_room, make_course):
    assert CODE.count_rounds(1250).fusions == 156
    room = make_room(size=200, steps=None, epochs=5)  # 25 batches of 8 in each
    learned = learn(room, make_course(), RecurrentKif(share=0.02, select_every=0))
    assert CODE.count_rounds(125) == RoundCount(fusions=15, leftover=5, outer_steps=60)
    assert len(learned.fusions) == 15
    assert learned.trained.steps == 125 + 60
    assert len(learned.trained.losses) == 5
    assert len(learned.memory) == 4
    assert all(sum(vars(one.cells).values()) == 18 for one in learned.fusions)  # 2 x 6 + 3 x 2 entries


def test_the_schedule_counts_inner_steps_only(make_room, make_course):
    learned = learn(make_room(steps=8, schedule="linear"), make_course(), kif())
    rates = learned.trained.curves.learning_rate
    expected = [1e-2 * (1 - (step - 1) / 7) if step else 1e-2 for step in (0, 1, 2, 3, 4, 4, 4, 5, 6, 7)]
    # a warm-up of one step, then a fall over the other seven; outer steps have the next inner step's rate
    assert rates[:10] == pytest.approx(expected)
    assert len(rates) == 12


def test_weights_of_one_are_plain_alternating_training_by_one_optimiser(make_room, make_course):
    room, plain = make_room(steps=9), make_room(steps=9)
    learn(room, make_course(), kif(weights=ONES))

    course, settings = make_course(), kif()
    generator = torch.Generator().manual_seed(0)
    own = plain.lesson(course.own(plain))
    memory = plain.lesson(course.memory(plain, settings))
    order = Order(own.size, 8, generator)
    outer = 0
    with Stepper(plain.model, plain.trained, plain.config, steps=9, generator=generator) as stepper:
        for inner in range(1, 10):
            stepper.step(own, own.batch(order.take(), generator))
            for _ in range(2 if inner % 4 == 0 else 0):
                rows = torch.tensor(replay_batch(memory.size, 8, step=outer, seed=0))
                stepper.step(memory, memory.batch(rows, generator), moves_schedule=False)
                outer += 1
    expected = plain.values()
    for name, value in room.values().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


def test_without_a_score_above_the_threshold_the_paper_freezes_rounds_and_the_code_halves_them(
    make_room, make_course
):
    frozen = make_room(steps=8)
    before = frozen.values()
    learned = learn(frozen, make_course(), kif(preset="paper", quantile=1.0))
    assert all(torch.equal(before[name], value) for name, value in frozen.values().items())
    assert [one.cells.redundant for one in learned.fusions] == [18, 18]
    assert learned.fusions[0].fused_norm == 0.0 < learned.fusions[0].inner_norm

    halved = make_room(steps=4)
    learned = learn(halved, make_course(), kif(quantile=1.0))
    both = make_room(steps=4)
    learn(both, make_course(), kif(weights=ONES))
    for name, value in halved.values().items():
        torch.testing.assert_close(value - before[name], (both.values()[name] - before[name]) / 2)


def test_importance_selects_entries_and_both_sides_change_some(make_room, make_course):
    learned = learn(make_room(steps=40), make_course(), kif())
    for one in learned.fusions:
        assert one.cells.shared + one.cells.new <= 4  # ⌈0.2 · 18⌉
        assert one.cells.shared + one.cells.historical <= 4
        assert 0 < one.fused_norm <= one.inner_norm + one.outer_norm
    assert len({one.cells for one in learned.fusions}) > 1


def test_soft_weights_have_no_cells(make_room, make_course):
    learned = learn(make_room(), make_course(), kif(weights="soft"))
    assert {one.cells for one in learned.fusions} == {None}


def test_the_parameters_with_the_least_development_loss_are_kept(make_room, make_course):
    last, best = (make_room(steps=24, learning_rate=0.5, schedule="constant") for _ in range(2))
    inner_alone = {
        "weights": dict.fromkeys(ONES, (1, 0))
    }  # nothing of the memory is kept: the first task is lost
    learn(last, make_course(), kif(**inner_alone))
    learned = learn(best, make_course(), kif(**inner_alone, select_every=4, select_examples=40))
    losses = [sum(room.loss_on(task) for task in ("one", "two")) for room in (last, best)]
    assert losses[1] < losses[0]
    assert len(learned.fusions) == 6  # the training itself goes on to its end


def test_a_round_of_selection_ends_in_the_last_parameters_where_they_are_best(make_room, make_course):
    one, other = make_room(), make_room()
    learn(one, make_course(), kif(weights=ONES))
    learn(other, make_course(), kif(weights=ONES, select_every=5, select_examples=40))
    assert all(torch.equal(value, other.values()[name]) for name, value in one.values().items())


@pytest.mark.parametrize("stop_at", [10, 20])
@pytest.mark.parametrize("params", [{}, {"weights": "soft", "select_every": 4}])
def test_a_training_that_is_killed_goes_on_to_the_same_bytes(
    make_room, make_course, tmp_path, params, stop_at
):
    whole, killed, resumed = (make_room(steps=30, save_every=7) for _ in range(3))
    expected = learn(whole, make_course(), kif(**params))

    def stop(done, _total):
        if done == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(killed, make_course(saved=tmp_path / "saved", progress=stop), kif(**params))
    learned = learn(resumed, make_course(saved=tmp_path / "saved"), kif(**params))
    assert learned.trained.resumed_at > 0
    assert all(torch.equal(value, resumed.values()[name]) for name, value in whole.values().items())
    assert (learned.fusions, learned.trained.losses) == (expected.fusions, expected.trained.losses)
    assert learned.trained.curves == expected.trained.curves


def test_a_save_of_other_settings_is_not_gone_on_from(make_room, make_course, tmp_path):
    learn(make_room(save_every=4), make_course(saved=tmp_path), kif())
    learned = learn(make_room(save_every=4), make_course(saved=tmp_path), kif(quantile=0.5))
    assert learned.trained.resumed_at == 0


def test_early_stopping_is_refused(make_room, make_course):
    with pytest.raises(SpecError, match=r"`select_every`; `early_stopping` does not go with it"):
        learn(make_room(early_stopping=EarlyStopping()), make_course(), kif())
