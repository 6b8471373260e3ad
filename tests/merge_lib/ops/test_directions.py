import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge_lib.ops.directions import largest_positive, leading_directions


@given(rows=st.integers(0, 9), size=st.integers(0, 7), count=st.integers(0, 8), seed=st.integers(0, 999))
def test_they_are_the_dense_matrix_s_eigenvectors(rows, size, count, seed):
    generator = torch.Generator().manual_seed(seed)
    stacked = torch.randn(rows, size, generator=generator, dtype=torch.float64)
    weights = torch.randn(rows, generator=generator, dtype=torch.float64)
    basis, values = leading_directions(stacked, weights, count)
    dense = sum(
        (w * torch.outer(row, row) for w, row in zip(weights, stacked, strict=True)),
        torch.zeros(size, size, dtype=torch.float64),
    )
    expected = [value for value in torch.linalg.eigvalsh(dense).tolist() if value > 1e-9]
    assert values.tolist() == pytest.approx(expected[max(len(expected) - count, 0) :])
    torch.testing.assert_close(basis.T @ basis, torch.eye(len(values), dtype=torch.float64))
    torch.testing.assert_close(dense @ basis, basis * values, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("count", "noise", "chosen"),
    [
        (0, 0.0, []),
        (1, 0.0, [3]),
        (2, 0.0, [3]),  # no room for both of the equal ones
        (3, 0.0, [0, 2, 3]),
        (9, 0.0, [0, 2, 3, 4]),
        (9, 2.0, [3]),
        (4, 1.5, [0, 2, 3]),
    ],
)
def test_the_largest_positive_scores(count, noise, chosen):
    scores = torch.tensor([2.0, -5.0, 2.0, 3.0, 1.0])
    assert largest_positive(scores, count, noise).nonzero()[:, 0].tolist() == chosen
