import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import merge_lib
from merge_lib.errors import MethodInputError
from merge_lib.methods.emr import emr
from merge_lib.ops.unify import begin_magnitudes
from merge_lib.trail import TakenTrail


def decoded(tensors, task, rescaler="global_l1"):
    """The task vectors of one task, of a model with a base of zeros: [tensor][expert][entry] in, lists out."""
    experts = [
        {f"t{i}": torch.tensor(rows[e], dtype=torch.float64) for i, rows in enumerate(tensors)}
        for e in range(len(tensors[0]))
    ]
    base = {name: torch.zeros_like(tensor) for name, tensor in experts[0].items()}
    merged = merge_lib.merge("emr", experts, base, task=task, rescaler=rescaler)
    return [merged[name].tolist() for name in sorted(merged)]


TWO = [[[2, -1, 3], [1, -3, -1]]]


def test_two_tasks_by_hand():
    # sums 3, −4, 2: the largest with those signs are 2, −3, 3
    assert decoded(TWO, -1) == [[2, -3, 3]]
    # the first holds 8 of magnitude and has 6; the second has 5 of 5
    assert decoded(TWO, 0) == [[1.5, -2.25, 2.25]]
    assert decoded(TWO, 1) == [[2, -3, 0]]


def test_the_conventions_differ():
    tensors = [[[2, 0], [1, -4]], [[1], [-3]]]
    assert decoded(tensors, 0, "official") == [[4.0, 0.0], [0.0]]
    assert decoded(tensors, 0) == [[3.0, 0.0], [0.0]]
    assert decoded(tensors, 1)[1] == pytest.approx([-3 * 8 / 9])
    assert decoded(tensors, 1, "official")[1] == pytest.approx([-3 * 11 / 12])


def test_one_task_comes_back_whole():
    assert decoded([[[1, -2, 0, 3]]], 0) == [[1, -2, 0, 3]]


def test_a_task_that_nothing_is_held_of_gets_the_base():
    assert decoded([[[1], [-3]]], 0) == [[0]]
    assert decoded([[[1], [-3]]], 1) == [[-3]]


def test_a_frozen_layer_stays():
    assert decoded([[[0, 0], [0, 0]], *TWO], 0) == [[0, 0], [1.5, -2.25, 2.25]]


def test_a_task_that_is_not_there():
    with pytest.raises(
        MethodInputError, match=r"`task` is 2, but 2 experts were given\. Give .* 0 to 1, or −1"
    ):
        decoded(TWO, 2)


def test_many_experts_that_are_the_same():
    row = [0.5, -0.25, 0.0]
    assert decoded([[row] * 200], 150) == [row]


@given(
    values=st.lists(st.lists(st.floats(-4, 4), min_size=3, max_size=3), min_size=1, max_size=5),
    split=st.integers(0, 3),
)
def test_it_is_the_loop_of_its_formula_however_the_model_is_cut(values, split):
    columns = list(zip(*values, strict=True))
    unified = [max([0, *column]) if sum(column) > 0 else min([0, *column]) for column in columns]
    tensors = [[row[:split] for row in values], [row[split:] for row in values]]
    for task, row in enumerate(values):
        mask = [
            a * u > 0 or (a != 0 and u != 0 and (a > 0) == (u > 0)) for a, u in zip(row, unified, strict=True)
        ]
        held = sum(abs(u) for u, m in zip(unified, mask, strict=True) if m)
        factor = sum(map(abs, row)) / held if held else 0.0
        expected = [factor * u * m for u, m in zip(unified, mask, strict=True)]
        first, second = decoded(tensors, task)
        assert first + second == pytest.approx(expected)


def test_what_it_notes():
    trail = TakenTrail()
    vectors = torch.tensor(TWO[0], dtype=torch.float64)
    emr(vectors, begin_magnitudes(2), trail=trail)
    assert trail.notes == {"share kept": [1.0, pytest.approx(2 / 3)]}
