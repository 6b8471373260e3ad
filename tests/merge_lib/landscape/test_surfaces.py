import json

import numpy as np
import pytest
import torch

from merge_lib.errors import CheckpointMismatchError, SpecError
from merge_lib.landscape import Examples, Plane, Rows, Waypoint, frame, mark, survey
from merge_lib.maps import MEAN, LossSurface

TASKS = ["red", "blue"]
COUNT = 7  # examples of each task


def state(*values: float) -> dict[str, torch.Tensor]:
    return {"weight": torch.tensor([values], dtype=torch.float64), "steps": torch.tensor(4)}


@pytest.fixture
def plane() -> Plane:
    """τ_1 = (3, 4, 0) and τ_2 = (0, 5, 0): u = (3, 4, 0) / 5 and v = (−4, 3, 0) / 5."""
    return Plane.through(state(1, 1, 1), state(4, 5, 1), state(1, 6, 1))


def test_coordinates_by_hand(plane):
    assert plane.corners == [(0, 0), (5, 0), pytest.approx((4, 3))]
    assert plane.shares(5, 0) == (1, 0)
    assert plane.at(0.0, 5.0)["weight"].tolist() == [pytest.approx([1 - 4, 1 + 3, 1])]
    assert int(plane.at(1.0, 1.0)["steps"]) == 4


def test_at_its_corners_the_plane_holds_the_checkpoints_themselves():
    states = [{"weight": torch.randn(50, generator=torch.Generator().manual_seed(seed))} for seed in range(3)]
    plane = Plane.through(*states)
    for corner, expected in zip(plane.corners, states, strict=True):
        assert plane.at(*corner)["weight"] is expected["weight"]
        assert plane.locate(expected)[:2] == pytest.approx(corner, abs=1e-6)


def test_where_another_model_lies(plane):
    x, y, distance = plane.locate(state(1 - 4 / 5, 1 + 3 / 5, 3))
    assert (x, y, distance) == (pytest.approx(0, abs=1e-12), pytest.approx(1), pytest.approx(2))


@pytest.mark.parametrize("seed", range(4))
def test_a_place_on_the_plane_is_found_again(seed, draw):
    shapes = {"weight": (4, 3), "bias": (4,)}
    plane = Plane.through(*(draw(10 * seed + place, **shapes) for place in range(3)))
    x, y, distance = plane.locate(plane.at(0.7, -1.3))
    assert (x, y) == (pytest.approx(0.7), pytest.approx(-1.3))
    assert distance == pytest.approx(0, abs=1e-9)
    one, other = plane.at(0.0, 0.0), plane.at(3.0, 4.0)
    assert sum(float((other[name] - one[name]).square().sum()) for name in one) == pytest.approx(25)


def test_points_on_one_line_are_refused():
    base, first = state(1, 1, 1), state(4, 5, 1)
    with pytest.raises(SpecError, match=r"'base', 'red' and 'blue' lie on one line: .* -2 times the first"):
        Plane.through(base, first, state(-5, -7, 1), ("base", "red", "blue"))
    with pytest.raises(SpecError, match="three different models, but 'blue' equals 'base'"):
        Plane.through(base, first, state(1, 1, 1), ("base", "red", "blue"))
    with pytest.raises(CheckpointMismatchError, match="'weight' has shape"):
        Plane.through(base, first, state(1, 1))


def test_the_frame_is_a_square_around_base_and_experts(plane):
    xs, ys = frame(plane, 5)
    assert (xs[0], xs[-1]) == (pytest.approx(2.5 - 4.25), pytest.approx(2.5 + 4.25))
    assert (ys[0], ys[-1]) == (pytest.approx(1.5 - 4.25), pytest.approx(1.5 + 4.25))
    assert np.diff(xs) == pytest.approx(np.diff(ys))
    with pytest.raises(SpecError, match="at least 2 points along each side, got 1"):
        frame(plane, 1)


def test_the_surface_of_a_linear_model_is_the_quadratic_in_closed_form(plane, squares):
    found = survey(plane, Examples.draw(squares, TASKS, count=COUNT), 6)
    for row, y in enumerate(found.ys):
        for column, x in enumerate(found.xs):
            weight = plane.at(x, y)["weight"]
            expected = [squares.loss(weight, task) for task in TASKS]
            assert found.losses[row][column] == pytest.approx(expected, rel=1e-11)
    rows = np.array(found.loss_on("red"))
    assert np.diff(rows, 3, axis=1) == pytest.approx(0, abs=1e-8)  # quadratic along x
    assert np.diff(rows, 3, axis=0) == pytest.approx(0, abs=1e-8)
    assert np.array(found.loss_on(MEAN)) == pytest.approx(np.array(found.losses).mean(-1))


class StoppedError(Exception):
    pass


def test_a_surface_that_was_stopped_goes_on_after_its_last_row(plane, squares, tmp_path):
    examples = Examples.draw(squares, TASKS, count=COUNT)
    whole = survey(plane, examples, 40)
    rows = Rows(tmp_path / "deep" / ".key.rows", "key")

    def stop(done: int, total: int) -> None:
        if done == 25:
            raise StoppedError

    with pytest.raises(StoppedError):
        survey(plane, examples, 40, rows, stop)
    with rows.path.open("a") as file:
        file.write("[[[0.1, 0.2], [0.")  # torn by a kill
    squares.calls = 0
    told = []
    assert survey(plane, examples, 40, rows, lambda done, _: told.append(done)) == whole
    assert told == list(range(25, 41))
    assert squares.calls == 15 * 2 * 2  # rows that were left, groups in a row, tasks
    assert len(rows.found()) == 40
    assert Rows(rows.path, "another").found() == []
    rows.remove()
    assert list(rows.path.parent.iterdir()) == []


def test_rows_that_are_damaged_end_what_is_found(tmp_path):
    path = tmp_path / "rows"
    path.write_text('"key"\n[[[1.0, 0.5]]]\nnonsense\n[[[2.0, 0.5]]]\n')
    assert Rows(path, "key").found() == [[[[1.0, 0.5]]]]
    path.write_text("nonsense\n")
    assert Rows(path, "key").found() == []


def test_marks_say_where_models_lie_and_what_they_reach(plane, squares):
    examples = Examples.draw(squares, TASKS, count=COUNT)
    merged = state(2.5, 3, 2)
    marks = mark(plane, examples, [(Waypoint("mean", lambda: merged), "merge")], corners=("base", *TASKS))
    assert [(one.name, one.kind, one.distance) for one in marks] == [
        ("base", "base", 0),
        ("red", "expert", 0),
        ("blue", "expert", 0),
        ("mean", "merge", pytest.approx(1)),
    ]
    assert [(one.x, one.y) for one in marks[:3]] == plane.corners
    losses = [squares.loss(merged["weight"], task) for task in TASKS]
    assert list(marks[-1].losses.values()) == pytest.approx(losses)
    assert marks[-1].loss == pytest.approx(sum(losses) / 2)
    (unmeasured,) = mark(plane, None, [(Waypoint("mean", lambda: merged), "merge")])
    assert unmeasured.loss is None
    assert unmeasured.accuracy is None


def test_a_surface_comes_back_from_json(plane, squares):
    examples = Examples.draw(squares, TASKS, count=COUNT)
    found = survey(plane, examples, 3)
    marks = mark(plane, examples, [], corners=("base", *TASKS))
    whole = LossSurface.from_dict({**vars(found), "marks": [vars(one) for one in marks]})
    from dataclasses import asdict

    assert LossSurface.from_dict(json.loads(json.dumps(asdict(whole)))) == whole
