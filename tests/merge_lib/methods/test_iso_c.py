"""Iso-C against cases by hand, the spelled-out formula and its edges."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge_lib.methods.iso_c import iso_c
from merge_lib.trail import TakenTrail


def rows(count=3, shape=(7, 5), seed=0, dtype=torch.float64):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(
        dtype
    )


def test_by_hand():
    # the sum is diag(3, −1): singular values 3 and 1, mean 2, U Vᵀ = diag(1, −1)
    task_vectors = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, -2.0]]])
    torch.testing.assert_close(iso_c(task_vectors), torch.tensor([[2.0, 0.0], [0.0, -2.0]]))
    torch.testing.assert_close(iso_c(task_vectors, scale=1.5), torch.tensor([[3.0, 0.0], [0.0, -3.0]]))


@pytest.mark.parametrize("shape", [(7, 5), (4, 9), (6, 6), (1, 5), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_it_is_the_formula(shape, dtype):
    task_vectors = rows(3, shape, dtype=dtype)
    u, s, vt = torch.linalg.svd(task_vectors.double().sum(0), full_matrices=False)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    merged = iso_c(task_vectors).double()
    torch.testing.assert_close(merged, s.mean() * u @ vt, rtol=tolerance, atol=tolerance)


@given(seed=st.integers(0, 1000), count=st.integers(1, 4))
def test_the_spectrum_is_flat_and_its_sum_the_same(seed, count):
    """r equal singular values, ‖Δ‖_F² = r σ̄², the nuclear norm that of the sum."""
    task_vectors = rows(count, (6, 4), seed)
    values, before = (torch.linalg.svdvals(m) for m in (iso_c(task_vectors), task_vectors.sum(0)))
    torch.testing.assert_close(values, before.mean().expand(4), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        iso_c(task_vectors).square().sum(), 4 * before.mean() ** 2, rtol=1e-9, atol=1e-9
    )


def test_null_directions_get_nothing():
    """A sum of rank 1: its one direction keeps its singular value, the others stay as in the base."""
    low = torch.outer(torch.tensor([3.0, 0.0, 4.0]), torch.tensor([1.0, 0.0])).double()
    torch.testing.assert_close(iso_c(low[None]), low)
    torch.testing.assert_close(iso_c(low[None].float()), low.float())


@pytest.mark.parametrize("scale", [1e-30, 1e37])
def test_size_does_not_matter(scale):
    task_vectors = rows(1, dtype=torch.float32)
    torch.testing.assert_close(iso_c(task_vectors * scale) / scale, iso_c(task_vectors), rtol=1e-5, atol=1e-5)


def test_opposite_experts_and_frozen_layers_give_the_base():
    one = rows(1)[0]
    assert not iso_c(torch.stack([one, -one])).any()
    assert not iso_c(torch.zeros(2, 3, 4)).any()


def test_two_hundred_experts():
    assert torch.isfinite(iso_c(rows(200, (3, 3)))).all()


@pytest.mark.parametrize("shape", [(), (5,), (0,), (3, 2, 2, 2), (0, 4), (4, 0)])
def test_what_is_not_a_matrix_is_averaged(shape):
    torch.testing.assert_close(iso_c(rows(3, shape), scale=0.5), 0.5 * rows(3, shape).sum(0) / 3)


def test_the_trail_says_how_the_spectrum_was():
    trail = TakenTrail()
    iso_c(torch.tensor([[[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]]]), trail=trail)
    assert trail.notes == {
        "singular values kept": [2.0],
        "largest singular value": [pytest.approx(3.0)],
        "mean singular value": [pytest.approx(2.0)],
    }
