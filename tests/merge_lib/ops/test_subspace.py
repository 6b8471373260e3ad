"""Routes agree, polar factors are isometries, null directions are left out."""

import pytest
import torch

from merge_lib.ops import subspace


def matrices(*shape, seed=0, decay=1.0, dtype=torch.float32):
    """Random matrices whose singular values fall by `decay` from one to the next."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(*shape, generator=generator, dtype=torch.float64)
    left, _, right = torch.linalg.svd(rows, full_matrices=False)
    values = decay ** torch.arange(left.shape[-1], dtype=torch.float64)
    return ((left * values) @ right).to(dtype)


@pytest.mark.parametrize("shape", [(24, 10), (10, 24), (12, 12), (2, 3, 9, 4)])
@pytest.mark.parametrize("decay", [0.9, 0.3])
def test_both_routes_agree_as_stated(shape, decay):
    case = matrices(*shape, decay=decay)
    one = subspace.gram_factors(case, min(shape[-2:]))
    other = subspace.svd_factors(case)
    error = 1e-14 * other.values[..., :1] / other.values.clamp(min=1e-30)  # 1e-16 σ_1²/σ, and a margin
    assert ((one.values - other.values).abs() <= error + 1e-15).all()
    torch.testing.assert_close(one.product(), other.product(), rtol=0, atol=1e-9)


def test_the_gram_route_is_more_exact_than_float32():
    case = matrices(40, 20, decay=0.5)  # the last singular value is 2e-6 of the first
    exact = subspace.svd_factors(case).values
    narrow = torch.linalg.svdvals(case).double()
    by_gram = subspace.thin_svd(case).values
    assert ((by_gram - exact).abs() <= 1e-5 * exact).all()
    assert (narrow - exact).abs()[-1] > 1e-4 * exact[-1]


def test_some_triplets_are_the_first_ones():
    case = matrices(9, 7, decay=0.5)
    few = subspace.thin_svd(case, 3)
    assert (few.left.shape, few.values.shape, few.right.shape) == ((9, 3), (3,), (3, 7))
    torch.testing.assert_close(few.product(), subspace.svd_factors(case).first(3).product())


@pytest.mark.parametrize("by_gram", [False, True])
@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (2, 6, 6)])
def test_a_polar_factor_is_the_nearest_isometry(by_gram, shape):
    case = matrices(*shape, decay=0.8, dtype=torch.float64)
    polar = subspace.polar_factor(case, 1e-6, by_gram=by_gram)
    small = polar.mT @ polar if shape[-2] >= shape[-1] else polar @ polar.mT
    torch.testing.assert_close(small, torch.eye(small.shape[-1], dtype=torch.float64).expand_as(small))
    stretch = polar.mT @ case  # symmetric without negative eigenvalues: M = P H
    torch.testing.assert_close(stretch, stretch.mT)
    assert (torch.linalg.eigvalsh(stretch) > -1e-9).all()


@pytest.mark.parametrize("by_gram", [False, True])
def test_a_polar_factor_does_not_depend_on_rotations_of_equal_singular_values(by_gram):
    left = torch.linalg.qr(matrices(6, 3, dtype=torch.float64)).Q
    turn = torch.linalg.qr(matrices(3, 3, seed=1, dtype=torch.float64)).Q
    polar = subspace.polar_factor(2.5 * left @ turn, 1e-6, by_gram=by_gram)
    torch.testing.assert_close(polar, left @ turn)


@pytest.mark.parametrize("by_gram", [False, True])
def test_the_null_space_of_a_polar_factor_is_left_out(by_gram):
    case = torch.zeros(4, 3, dtype=torch.float64)
    case[0, 0], case[1, 1] = 3.0, 1e-9
    expected = torch.zeros_like(case)
    expected[0, 0] = 1.0
    torch.testing.assert_close(subspace.polar_factor(case, 1e-6, by_gram=by_gram), expected)
    assert not subspace.polar_factor(torch.zeros(3, 2), 1e-6, by_gram=by_gram).any()


def test_the_gram_matrix_is_summed_over_blocks(monkeypatch):
    case = matrices(11, 4)
    monkeypatch.setattr(subspace, "_ROWS", 3)
    torch.testing.assert_close(subspace.gram(case), case.double().T @ case.double())


@pytest.mark.parametrize("values", [[5.0, 2.0, 1.0], [5.0, 2.0, 0.0], [1.0, 1e-4, 1e-13], [0.0, 0.0, 0.0]])
def test_both_routes_to_a_pseudo_inverse_agree(values):
    turn = torch.linalg.qr(matrices(3, 3, dtype=torch.float64)).Q
    case = (turn * torch.tensor(values, dtype=torch.float64)) @ turn.T
    inverse = subspace.pseudo_inverse(case, 1e-12)
    kept = [1 / value if value > 1e-12 * max(values) else 0.0 for value in values]
    expected = (turn * torch.tensor(kept, dtype=torch.float64)) @ turn.T
    torch.testing.assert_close(inverse, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(inverse, subspace.eigen_pseudo_inverse(case, 1e-12), rtol=1e-9, atol=1e-9)
