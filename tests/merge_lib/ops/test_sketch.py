import pytest
import torch

from merge_lib.ops.alignment import align
from merge_lib.ops.sketch import low_rank_range, sketched_svd
from merge_lib.ops.subspace import svd_factors


def falling(m, n, decay, *, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    left, _, right = torch.linalg.svd(
        torch.randn(m, n, generator=generator, dtype=torch.float64), full_matrices=False
    )
    return ((left * decay ** torch.arange(min(m, n))) @ right).to(dtype)


@pytest.mark.parametrize("shape", [(60, 40), (40, 60)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_values_that_fall_fast_are_found(shape, dtype):
    case = falling(*shape, 0.5, dtype=dtype)
    exact, found = svd_factors(case).first(6), sketched_svd(case, 6)
    torch.testing.assert_close(found.values, exact.values, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.product(), exact.product(), rtol=1e-4, atol=1e-5)


def test_of_a_flat_spectrum_nearly_all_that_can_be_held_is():
    case = torch.randn(200, 200, generator=torch.Generator().manual_seed(0))
    held, most = (one.values.square().sum() for one in (sketched_svd(case, 25), svd_factors(case).first(25)))
    assert 0.9 * most < held <= most


def test_it_is_exact_where_most_triplets_are_wanted_and_the_same_every_time():
    case = torch.randn(20, 15, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sketched_svd(case, 5).values, svd_factors(case).first(5).values)
    wide = torch.randn(30, 40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sketched_svd(wide, 5).left, sketched_svd(wide, 5).left)


def test_the_range_of_a_matrix_of_low_rank():
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(64, 9, generator=generator), torch.randn(9, 80, generator=generator)
    basis = low_rank_range(left @ right, 1e-2)
    assert basis.shape == (64, 16)
    torch.testing.assert_close(
        basis @ (basis.T @ (left @ right).double()), (left @ right).double(), rtol=0, atol=1e-3
    )
    assert low_rank_range(torch.randn(64, 80, generator=generator), 1e-2) is None
    assert low_rank_range(torch.zeros(64, 80), 1e-5).shape == (64, 4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_adapters_have_the_same_parts_whatever_the_route(dtype, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.randn(3, *shape, generator=generator, dtype=torch.float64) for shape in ((64, 2), (2, 48))
    )
    task_vectors = (0.1 * left @ right).to(dtype)
    short = align(task_vectors)
    monkeypatch.setattr("merge_lib.ops.alignment.low_rank_range", lambda *_: None)
    whole = align(task_vectors)
    assert short.parts.shape == whole.parts.shape == (3, 6, 48)
    torch.testing.assert_close(short.parts.abs(), whole.parts.abs(), rtol=1e-4, atol=1e-6)
    turned = short.basis.T @ whole.basis  # the same vectors, up to their signs
    torch.testing.assert_close(turned.abs(), torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-5)
