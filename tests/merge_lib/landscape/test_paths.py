import pytest
import torch

from merge_lib.errors import CheckpointMismatchError, DataError, SpecError
from merge_lib.landscape import Examples, Waypoint, between, follow, measure
from merge_lib.landscape.measuring import SMALL
from merge_lib.maps import MEAN, LossPath

TASKS = ["red", "blue"]
COUNT = 7  # examples of each task


def route(*states):
    return [Waypoint(str(place), lambda state=state: state) for place, state in enumerate(states)]


def test_losses_along_a_path_are_those_in_closed_form(squares, draw):
    states = [draw(seed) for seed in range(3)]
    found = follow(route(*states), Examples.draw(squares, TASKS, count=COUNT), 5)
    assert found.positions == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2]
    for position, losses in zip(found.positions, found.losses, strict=True):
        leg = min(int(position), 1)
        share = position - leg
        weight = (1 - share) * states[leg]["weight"] + share * states[leg + 1]["weight"]
        assert losses == pytest.approx([squares.loss(weight, task) for task in TASKS], rel=1e-12)
    assert found.legs == ["0 → 1", "1 → 2"]
    assert found.loss_on(MEAN) == pytest.approx([sum(losses) / 2 for losses in found.losses])
    assert found.examples == COUNT


def test_accuracy_is_the_share_of_right_answers(squares, draw):
    state = draw(0)
    examples = Examples.draw(squares, ["red"], count=COUNT)
    (measured,) = measure(examples, [state])
    inputs, targets = squares.data("red")
    errors = (inputs @ state["weight"].reshape(-1) - targets).square()
    assert float(measured[0, 1]) == float((errors < torch.tensor(2.0).log()).double().mean())


def test_fewer_examples_are_drawn_by_the_seed(squares):
    few = [
        Examples.draw(squares, ["red"], count=3, seed=seed).batches["red"][0].inputs[0] for seed in (1, 1, 2)
    ]
    assert torch.equal(few[0], few[1])
    assert not torch.equal(few[0], few[2])


def test_the_ends_of_a_leg_are_the_checkpoints_themselves():
    start = {"weight": torch.tensor([-0.0, 1e-45, 3.0]), "steps": torch.tensor(3)}
    end = {"weight": torch.tensor([5.0, -0.0, 1e38]), "steps": torch.tensor(7)}
    for share, state in ((0.0, start), (1.0, end)):
        found = between(start, end, share)
        assert all(
            torch.equal(found[name].reshape(-1).view(torch.uint8), state[name].reshape(-1).view(torch.uint8))
            for name in state
        )
    middle = between(start, end, 0.75)
    assert middle["weight"].tolist()[0] == 3.75
    assert int(middle["steps"]) == 7  # a whole number is that of the nearer end
    assert int(between(start, end, 0.25)["steps"]) == 3


def test_between_equal_checkpoints_everything_is_flat(squares, draw):
    state = draw(0)
    twin = {name: tensor.clone() for name, tensor in state.items()}
    found = follow(route(state, twin), Examples.draw(squares, TASKS, count=COUNT), 4)
    for losses in found.losses:
        assert losses == pytest.approx(found.losses[0], rel=1e-12)
    assert found.barriers() == pytest.approx([0.0], abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_a_convex_loss_has_no_barrier(classes, draw, seed):
    shapes = {"weight": (3, 3), "bias": (3,)}
    states = [draw(3 * seed + place, **shapes) for place in range(3)]
    found = follow(route(*states), Examples.draw(classes, TASKS, count=COUNT), 9)
    for task in (MEAN, *TASKS):
        assert found.barriers(task) == [0.0, 0.0]


def test_a_barrier_by_hand():
    path = LossPath(
        ["a", "b", "c"],
        [0.0, 0.5, 1.0, 1.25, 2.0],
        ["red", "blue"],
        [[1.0, 0.0], [3.0, 0.0], [2.0, 0.0], [1.0, 4.0], [2.0, 8.0]],
        [[0.0, 0.0]] * 5,
        1,
    )
    assert path.barriers("red") == [3 - 1.5, 0.0]
    assert path.barriers("blue") == [0.0, 4 - 2.0]
    assert path.barriers() == [1.5 - 0.75, 2.5 - (0.75 * 1 + 0.25 * 5)]


def test_groups_of_small_models_and_single_large_ones_agree(squares, stubborn, draw, caplog):
    """By vmap, one by one after vmap refused, and one by one as the model is large."""
    models = [draw(seed) for seed in range(40)]
    together = list(measure(Examples.draw(squares, TASKS, count=COUNT), models))
    assert len(together) == 40
    assert squares.calls == 4  # two groups, two tasks
    with caplog.at_level("INFO", logger="merge_lib.landscape.measuring"):
        alone = list(measure(Examples.draw(stubborn, TASKS, count=COUNT), models))
    assert "measured one by one" in caplog.text
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(one, other, rtol=1e-12)

    wide = type(squares)(SMALL + 1)
    large = [draw(seed, weight=(1, SMALL + 1)) for seed in range(2)]
    for model, measured in zip(large, measure(Examples.draw(wide, ["red"], count=COUNT), large), strict=True):
        assert float(measured[0, 0]) == pytest.approx(wide.loss(model["weight"], "red"), rel=1e-12)


def test_nothing_is_measured_of_nothing(squares):
    assert list(measure(Examples.draw(squares, TASKS, count=COUNT), [])) == []


def test_a_path_needs_two_ends_and_models_that_match(squares, draw):
    examples = Examples.draw(squares, TASKS, count=COUNT)
    for states, points in (([draw(0)], 5), ([draw(0), draw(1)], 1)):
        with pytest.raises(SpecError, match="at least two checkpoints and two points"):
            follow(route(*states), examples, points)
    with pytest.raises(
        CheckpointMismatchError, match=r"'weight' has shape \(1, 4\) in '1' but \(1, 3\) in '0'"
    ):
        follow(route(draw(0), draw(1, weight=(1, 4))), examples, 3)


def test_progress_counts_the_points(squares, draw):
    told = []
    examples = Examples.draw(squares, TASKS, count=COUNT)
    follow(route(draw(0), draw(1)), examples, 3, lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_task_without_examples_is_refused(squares):
    with pytest.raises(DataError, match="Task red has no example in its test split"):
        Examples.draw(squares, ["red"], count=0)
