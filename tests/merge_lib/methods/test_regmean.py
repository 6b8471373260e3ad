"""RegMean: a case by hand, the formula written out, the zero gradient, edges."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_lib.errors import MethodInputError
from merge_lib.layers import Layer
from merge_lib.learned import Observed
from merge_lib.methods.regmean import regmean
from merge_lib.trail import TakenTrail


def merge(experts, grams, role="linear", **params):
    observed = None if grams is None else Observed(tuple(grams), (9,) * len(grams))
    return regmean(experts, Layer("w", tuple(experts.shape[1:]), role), observed, **params)


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def random_case(count=3, outputs=4, inputs=5, rows=9, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    features = [normal(rows, inputs) for _ in range(count)]
    return normal(count, outputs, inputs), [x.T @ x / rows for x in features], features


def test_one_row_by_hand():
    # diagonal Gram matrices weigh inputs: (1·4 + 5·1)/5 = 1.8, (2·1 + 6·3)/4 = 5; input 3 is nobody's: the mean
    experts = torch.stack([tensor([1, 2, 3]), tensor([5, 6, 7])])
    grams = [tensor([4, 0, 0], [0, 1, 0], [0, 0, 0]), tensor([1, 0, 0], [0, 3, 0], [0, 0, 0])]
    torch.testing.assert_close(merge(experts, grams, ridge=1e-12), tensor([1.8, 5, 5]))


@pytest.mark.parametrize("factor", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("ridge", [1e-12, 0.3])
def test_the_formula_written_out(factor, ridge):
    experts, grams, _ = random_case()
    level = torch.stack([gram.diagonal() for gram in grams]).mean()
    top, bottom = torch.zeros(4, 5, dtype=torch.float64), torch.zeros(5, 5, dtype=torch.float64)
    for expert, gram in zip(experts, grams, strict=True):
        shrunk = gram.clone()
        for i in range(5):
            for j in range(5):
                shrunk[i, j] *= 1 if i == j else factor
            shrunk[i, i] += ridge * level
        top += expert @ shrunk
        bottom += shrunk
    merged = merge(experts, grams, off_diagonal=factor, ridge=ridge)
    torch.testing.assert_close(merged, top @ torch.linalg.inv(bottom))


def test_the_gradient_of_the_squared_error_is_zero():
    experts, grams, features = random_case()
    merged = merge(experts, grams, off_diagonal=1.0, ridge=1e-12).requires_grad_()
    error = sum((((merged - w) @ x.T) ** 2).sum() for w, x in zip(experts, features, strict=True))
    (gradient,) = torch.autograd.grad(error, merged)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-9)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 5), shift=st.floats(-5, 5), factor=st.floats(0, 1))
def test_laws(seed, count, shift, factor):
    """Equal Gram matrices give the mean; what is added to all experts is added to the result; order; loudness."""
    experts, grams, _ = random_case(count, rows=3, seed=seed)
    params = {"off_diagonal": factor}
    equal = merge(experts, grams[:1] * count, **params)
    torch.testing.assert_close(equal, experts.mean(0), rtol=1e-8, atol=1e-8)
    merged = merge(experts, grams, **params)
    moved = experts + shift
    torch.testing.assert_close(merge(moved, grams, **params), merged + shift, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(merge(experts.flip(0), grams[::-1], **params), merged, rtol=1e-6, atol=1e-6)
    louder = [7 * gram for gram in grams]
    torch.testing.assert_close(merge(experts, louder, **params), merged, rtol=1e-6, atol=1e-6)


def test_one_expert_and_equal_experts_come_back_exactly():
    experts, grams, _ = random_case(1)
    assert torch.equal(merge(experts, grams), experts[0])
    assert torch.equal(merge(experts.repeat(4, 1, 1), grams * 4), experts[0])


@pytest.mark.parametrize("role", ["scale", "shift", "embedding", "other"])
def test_what_is_not_linear_is_the_mean(role):
    experts, grams, _ = random_case()
    torch.testing.assert_close(merge(experts, grams, role), experts.mean(0))


def test_what_no_data_reached_is_the_mean():
    experts, grams, _ = random_case()
    trail = TakenTrail()
    torch.testing.assert_close(merge(experts, None, trail=trail), experts.mean(0))
    assert trail.notes == {"reached by data": [0.0]}
    torch.testing.assert_close(merge(experts, [0 * gram for gram in grams]), experts.mean(0))


def test_kernels_are_matrices_over_patches():
    experts, grams, _ = random_case(3, 4, 12)
    merged = merge(experts.reshape(3, 4, 3, 2, 2), grams, "convolution")
    assert torch.equal(merged.reshape(4, 12), merge(experts, grams))


def test_the_trail_says_what_the_outputs_lost():
    experts = torch.stack([tensor([0.0, 4.0]), tensor([0.0, 1.0])])
    grams = [torch.eye(2, dtype=torch.float64), 2 * torch.eye(2, dtype=torch.float64)]
    trail = TakenTrail()
    merged = merge(experts, grams, ridge=1e-12, trail=trail)  # (4 + 2)/3 = 2, the mean is 2.5
    torch.testing.assert_close(merged, tensor([0.0, 2.0]))
    assert trail.notes["drift left"] == pytest.approx([4 / 16, 1])
    assert trail.notes["distance from the mean"] == pytest.approx([0.25 / 6.25])


def test_few_rows_and_many_experts():
    experts, grams, _ = random_case(200, 2, 6, rows=1)
    assert torch.isfinite(merge(experts.float(), grams, off_diagonal=1.0)).all()
    experts, grams, _ = random_case(2, 2, 6, rows=1)  # two directions of six
    assert torch.isfinite(merge(experts.float(), grams, off_diagonal=1.0)).all()


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (4, 0)])
def test_tensors_without_axes_or_entries(shape):
    experts = torch.ones(2, *shape, dtype=torch.float64)
    assert merge(experts, None, "linear" if len(shape) == 2 else "other").shape == shape


def test_gram_matrices_that_cannot_be():
    experts, grams, _ = random_case(2)
    with pytest.raises(
        MethodInputError, match=r"that of expert 1 has the shape \(4, 4\), expected 2 axes, the last 5"
    ):
        merge(experts, [grams[0], grams[1][:4, :4]])
    with pytest.raises(
        MethodInputError, match=r"of expert 0 has the shape \(4, 5\), but the layer has 5 inputs"
    ):
        merge(experts, [grams[0][:4], grams[1]])
    with pytest.raises(MethodInputError, match="must be positive, but it is not, even with the ridge"):
        merge(experts, [-gram for gram in grams])
