from fractions import Fraction
from math import fsum

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge_lib.ops.sums import exact_magnitude_sum
from merge_lib.ops.unify import (
    agrees,
    begin_magnitudes,
    close_magnitudes,
    decouple,
    fold_magnitudes,
    unify,
)


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


def magnitudes(tensors, convention="global_l1"):
    state = begin_magnitudes(len(tensors[0]), convention)
    for tensor in tensors:
        state = fold_magnitudes(state, tensor, unify(tensor), tensor[0].numel())
    return close_magnitudes(state)


def test_two_tasks():
    vectors = rows([2, -1, 3], [1, -3, -1])
    unified = unify(vectors)
    assert unified.tolist() == [2, -3, 3]
    masks = [agrees(row, unified) for row in vectors]
    assert [mask.tolist() for mask in masks] == [[True, True, True], [True, True, False]]
    rescalers = magnitudes([vectors]).rescalers
    assert rescalers == (0.75, 1.0)
    assert decouple(unified, masks[0], rescalers[0]).tolist() == [1.5, -2.25, 2.25]
    assert decouple(unified, masks[1], rescalers[1]).tolist() == [2, -3, 0]


def test_one_task_comes_back_whole():
    vectors = rows([1, -2, 0, 3])
    unified = unify(vectors)
    assert unified.tolist() == [1, -2, 0, 3]
    assert agrees(vectors[0], unified).tolist() == [True, True, False, True]
    assert magnitudes([vectors]).rescalers == (1.0,)


def test_the_conventions_differ():
    tensors = [rows([2, 0], [1, -4]), rows([1], [-3])]
    assert magnitudes(tensors, "official").rescalers == pytest.approx((2.0, 0.916667), abs=1e-6)
    assert magnitudes(tensors).rescalers == pytest.approx((1.5, 0.888889), abs=1e-6)


def test_opposite_tasks():
    vectors = rows([1, -1], [-1, 1])
    unified = unify(vectors)
    assert unified.tolist() == [-1, -1]  # a sum of 0 counts as minus
    assert [agrees(row, unified).tolist() for row in vectors] == [[False, True], [True, False]]
    assert magnitudes([vectors]).rescalers == (2.0, 2.0)


def test_an_empty_mask_has_the_rescaler_zero():
    state = magnitudes([rows([1], [-3], [0])])
    assert state.rescalers == (0.0, 1.0, 0.0)
    assert state.empty == (0,)


def test_tiny_entries_are_not_lost():
    vectors = torch.tensor([[1e-30, -1e-40], [1e-30, -1e-40]], dtype=torch.float32)
    assert agrees(vectors[0], unify(vectors)).tolist() == [True, True]


@given(
    values=st.lists(st.lists(st.floats(-9, 9), min_size=4, max_size=4), min_size=1, max_size=6),
    factor=st.sampled_from([0.25, 1.0, 8.0]),
)
def test_laws(values, factor):
    vectors = torch.tensor(values, dtype=torch.float64)
    unified = unify(vectors)
    masks = torch.stack([agrees(row, unified) for row in vectors])
    assert torch.equal(unify(vectors * factor), unified * factor)
    assert (unified.abs() <= vectors.abs().amax(0)).all()
    assert torch.equal(masks.any(0), unified != 0)  # every entry is somebody's
    assert not masks[vectors == 0].any()
    state = magnitudes([vectors])
    assert magnitudes([vectors.flip(0)]).rescalers[::-1] == state.rescalers or len(values) > 2
    for row, mask, rescaler in zip(vectors, masks, state.rescalers, strict=True):
        if mask.any():
            held = decouple(unified, mask, rescaler)
            assert held.abs().sum().item() == pytest.approx(row.abs().sum().item())


def test_pieces_add_up_to_the_whole_without_rounding():
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(3, 5000, generator=generator) * torch.logspace(-20, 20, 5000)
    state = begin_magnitudes(3, "official")
    unified = unify(whole)
    for start, stop in ((2048, 5000), (0, 1024), (1024, 2048)):
        state = fold_magnitudes(state, whole[:, start:stop], unified[start:stop], 5000)
    assert close_magnitudes(state) == magnitudes([whole], "official")


def test_sums_are_exact():
    values = torch.tensor([2.0**60, 1.0, 2.0**-60] + [0.0] * 1021 + [2.0**-70], dtype=torch.float64)
    assert exact_magnitude_sum(values[1024:]) == Fraction(2) ** -70
    tiles = exact_magnitude_sum(values) - Fraction(2) ** -70
    assert tiles == Fraction(fsum([2.0**60, 1.0])) or tiles == exact_magnitude_sum(values[:1024])
    assert exact_magnitude_sum(torch.zeros(0)) == 0
