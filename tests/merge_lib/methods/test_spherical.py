"""The SLERP family: nuslerp, multislerp and karcher."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import merge_lib
from merge_lib.errors import MethodInputError
from merge_lib.mergekit.methods import spherical
from merge_lib.methods.karcher import karcher
from merge_lib.methods.multislerp import multislerp
from merge_lib.methods.nuslerp import nuslerp
from merge_lib.methods.slerp import slerp


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


def random_rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def angle(one, two):
    return math.acos(max(-1.0, min(1.0, float((one * two).sum() / (one.norm() * two.norm())))))


HALF = math.sqrt(0.5)


def test_a_right_angle():
    pair = rows([1.0, 0.0], [0.0, 2.0])
    assert nuslerp(pair, None).tolist() == pytest.approx([HALF, 2 * HALF])
    # the direction half-way, at the mean length 1.5
    for method in (multislerp, karcher):
        assert method(pair, None).tolist() == pytest.approx([1.5 * HALF, 1.5 * HALF])


def test_seen_from_the_base():
    base = torch.tensor([3.0, -1.0], dtype=torch.float64)
    pair = rows([1.0, 0.0], [0.0, 2.0])
    for method in (nuslerp, multislerp, karcher):
        expected = base + method(pair, None)
        assert torch.allclose(method(pair + base, base, centre="base"), expected)
        assert torch.equal(method(pair, base), method(pair, None))


@pytest.mark.parametrize("name", ["nuslerp", "multislerp", "karcher"])
def test_a_centre_that_is_not_there(name):
    with pytest.raises(MethodInputError, match="`centre` is 'base', but no base is given"):
        merge_lib.merge(name, [{"w": torch.ones(2)}] * 2, centre="base")


@pytest.mark.parametrize("method", [multislerp, karcher])
def test_zero_opposite_and_identical_tensors(method):
    assert method(rows([0.0, 0.0], [0.0, 0.0]), None).tolist() == [0.0, 0.0]
    assert method(rows([2.0, 0.0], [-4.0, 0.0]), None).tolist() == [-1.0, 0.0]  # they cancel: the mean
    same = random_rows(1, 50)
    assert torch.allclose(method(same.repeat(200, 1), None), same[0], rtol=1e-12)
    assert method(rows([5.0, -1.0]), None).tolist() == pytest.approx([5.0, -1.0])
    assert method(rows(2.0, 4.0), None).item() == pytest.approx(3.0)
    assert method(torch.zeros(3, 0, 4), None).shape == (0, 4)


def test_a_zero_tensor_has_a_length_in_one_and_not_in_the_other():
    some = rows([0.0, 0.0], [4.0, 0.0])
    assert multislerp(some, None).tolist() == pytest.approx([2.0, 0.0])
    assert karcher(some, None).tolist() == pytest.approx([4.0, 0.0])


def test_of_two_both_means_are_the_middle_of_the_arc():
    pair = random_rows(2, 30)
    assert torch.allclose(multislerp(pair, None), karcher(pair, None), rtol=1e-10)
    unit = pair / pair.norm(dim=1, keepdim=True)
    assert torch.allclose(karcher(unit, None), nuslerp(unit, None), rtol=1e-10)


def test_mergekit_s_are_the_same_to_its_accuracy():
    many = random_rows(4, 6, 5)
    ours, theirs = karcher(many, None), spherical.karcher(many, max_iter=500, tol=1e-14)
    assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    theirs = spherical.multislerp(many, None, weight=[1.0] * 4, normalize_weights=True)
    assert torch.allclose(multislerp(many, None), theirs, atol=1e-6)
    for flatten, row_wise, along in ((True, False, "tensor"), (False, False, "row"), (False, True, "column")):
        expected = spherical.nuslerp(many[:2], None, weight=[0.7, 0.3], flatten=flatten, row_wise=row_wise)
        assert torch.allclose(nuslerp(many[:2], None, position=0.3, along=along), expected)


@given(seed=st.integers(0, 10_000), count=st.integers(2, 6))
def test_the_karcher_mean_is_where_the_angles_balance(seed, count):
    many = random_rows(count, 7, seed=seed).abs()  # within one octant, where there is one such point
    mean = karcher(many, None)
    unit = mean / mean.norm()
    pull = torch.zeros(7, dtype=torch.float64)
    for row in many:
        direction = row / row.norm()
        away = direction - (direction @ unit) * unit
        if away.norm() > 0:
            pull += angle(row, unit) * away / away.norm()
    assert pull.norm() < 1e-6
    assert mean.norm().item() == pytest.approx(many.norm(dim=1).mean().item())
    farther = multislerp(many, None)
    assert sum(angle(row, mean) ** 2 for row in many) <= sum(angle(row, farther) ** 2 for row in many) + 1e-9


@given(seed=st.integers(0, 10_000), position=st.floats(0, 1))
def test_an_arc_is_divided_as_its_position_says(seed, position):
    pair = random_rows(2, 5, seed=seed)
    unit = pair / pair.norm(dim=1, keepdim=True)
    point = nuslerp(unit, None, position=position)
    assert point.norm().item() == pytest.approx(1.0)
    assert angle(unit[0], point) == pytest.approx(position * angle(*unit), abs=1e-6)


def test_nuslerp_keeps_to_the_arc_where_slerp_is_straight():
    pair = rows([1.0, 0.0], [math.cos(0.02), math.sin(0.02)])
    assert slerp(pair).norm().item() < 1 - 1e-5
    assert nuslerp(pair, None).norm().item() == pytest.approx(1.0, abs=1e-12)


def test_rows_columns_and_kernels():
    pair = rows([[1.0, 0.0], [2.0, 2.0]], [[0.0, 1.0], [2.0, 2.0]])
    assert nuslerp(pair, None, along="row").flatten().tolist() == pytest.approx([HALF, HALF, 2.0, 2.0])
    assert torch.allclose(nuslerp(pair.mT, None, along="column"), nuslerp(pair, None, along="row").mT)
    kernels = random_rows(2, 3, 2, 2, 2)
    flat = nuslerp(kernels.reshape(2, 3, 8), None, along="row")
    assert torch.equal(nuslerp(kernels, None, along="row").reshape(3, 8), flat)
    vectors = random_rows(2, 9)
    assert torch.equal(nuslerp(vectors, None, along="column"), nuslerp(vectors, None))


def test_nuslerp_where_there_is_no_arc():
    for left, right in (([1.0, 2.0], [-1.0, -2.0]), ([0.0, 0.0], [3.0, 1.0]), ([1.0, 1.0], [4.0, 4.0])):
        expected = [0.75 * a + 0.25 * b for a, b in zip(left, right, strict=True)]
        assert nuslerp(rows(left, right), None, position=0.25).tolist() == pytest.approx(expected)
    assert nuslerp(rows([1.0, 2.0]), None).tolist() == [1.0, 2.0]


def test_nuslerp_folds_from_the_left():
    a, b, c = random_rows(3, 6)
    first = nuslerp(torch.stack([a, b]), None, position=0.3)
    expected = nuslerp(torch.stack([first, c]), None, position=0.3)
    assert torch.equal(nuslerp(torch.stack([a, b, c]), None, position=0.3), expected)
