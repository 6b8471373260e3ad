"""Fisher merging: a case by hand, a slow loop, its laws and edges."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_lib.errors import MethodInputError, SpecError
from merge_lib.learned import Observed
from merge_lib.methods.fisher import fisher
from merge_lib.trail import TakenTrail


def merge(experts, information, norms=None, **params):
    observed = None
    if information is not None:
        values = tuple(torch.as_tensor(rows, dtype=torch.float64) for rows in information)
        observed = Observed(values, (9,) * len(values), tuple(norms or [1.0] * len(values)))
    return fisher(torch.as_tensor(experts, dtype=torch.float64), observed, **params)


def random_case(count=3, size=11, seed=0):
    generator = torch.Generator().manual_seed(seed)
    experts, roots = torch.randn(2, count, size, generator=generator, dtype=torch.float64)
    return experts, roots**2, [2.0 + t for t in range(count)]


def test_three_weights_by_hand():
    # normalised: (0.5, 0, 1) and (0.25, 0, 0), the zeros raised to the floor
    experts = [[1.0, 2.0, 3.0], [4.0, 6.0, 9.0]]
    trail = TakenTrail()
    merged = merge(experts, [[1.0, 0.0, 2.0], [1.0, 0.0, 0.0]], [2.0, 4.0], floor=0.1, trail=trail)
    torch.testing.assert_close(merged.tolist(), [2.0, 4.0, (3 + 0.1 * 9) / 1.1])
    assert trail.notes["share of the weight"] == pytest.approx(
        [(2 / 3 + 1 / 2 + 1 / 1.1) / 3, (1 / 3 + 1 / 2 + 0.1 / 1.1) / 3]
    )
    assert trail.notes["share at the floor"] == pytest.approx([1 / 3, 2 / 3])


def test_weights_of_the_experts():
    experts = [[1.0], [5.0]]
    assert merge(experts, [[1.0], [1.0]], weights="1, 3").tolist() == [4.0]
    assert merge(experts, None, weights="0.5,0.5").tolist() == [3.0]
    assert merge(experts, [[1.0], [1.0]], weights="0, 2").tolist() == [5.0]


@pytest.mark.parametrize("weights", ["1", "1, 2, 3", "1, x", "1; 2", "-1, 2", "0, 0", "nan, 1", "1, inf"])
def test_weights_that_cannot_be(weights):
    with pytest.raises(
        SpecError, match=r"'weights' of method 'fisher' is .*must be 2 numbers of at least 0, not all 0"
    ):
        merge([[1.0], [5.0]], None, weights=weights)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.2, 3.0, 1.0)])
def test_the_slow_loop(weights):
    experts, information, norms = random_case()
    expected = []
    for j in range(11):
        powers = [weights[t] * max(information[t, j].item() / norms[t], 0.05) for t in range(3)]
        expected.append(sum(p * experts[t, j].item() for t, p in enumerate(powers)) / sum(powers))
    text = ", ".join(map(str, weights))
    assert merge(experts, information, norms, floor=0.05, weights=text).tolist() == pytest.approx(expected)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 5),
    loudness=st.floats(1e-8, 1e8),
    shift=st.floats(-9, 9),
)
def test_laws(seed, count, loudness, shift):
    """Between the experts; a louder expert with its louder norm is the same; a shift of all; order; equal ones."""
    experts, information, norms = random_case(count, seed=seed)
    merged = merge(experts, information, norms)
    assert (merged <= experts.amax(0) + 1e-12).all()
    assert (merged >= experts.amin(0) - 1e-12).all()
    louder = merge(experts, [loudness * information[0], *information[1:]], [loudness * norms[0], *norms[1:]])
    torch.testing.assert_close(louder, merged)
    torch.testing.assert_close(merge(experts + shift, information, norms), merged + shift)
    torch.testing.assert_close(merge(experts.flip(0), information.flip(0), norms[::-1]), merged)
    assert torch.equal(merge(experts[:1].repeat(count, 1), information, norms), experts[0])


def test_without_information_the_mean_is_left():
    experts, information, _ = random_case()
    trail = TakenTrail()
    torch.testing.assert_close(merge(experts, None, trail=trail), experts.mean(0))
    assert trail.notes["reached by data"] == [0.0]
    torch.testing.assert_close(merge(experts, 0 * information, [0.0] * 3), experts.mean(0))
    torch.testing.assert_close(merge(experts, information, floor=1e9), experts.mean(0))


def test_tiny_information_counts():
    # as float32 gradients of a confident model give: far below any fixed threshold, but normalised
    experts = [[0.0, 0.0], [1.0, 1.0]]
    merged = merge(experts, [[1e-30, 1e-30], [3e-30, 0.0]], [1e-30, 1e-30])
    torch.testing.assert_close(merged.tolist(), [0.75, 1e-6], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
@pytest.mark.parametrize("count", [1, 200])
def test_every_shape_and_many_experts(shape, count):
    experts = torch.ones(count, *shape, dtype=torch.float64)
    assert torch.equal(merge(experts, list(torch.rand(count, *shape))), experts[0])


def test_information_of_another_tensor_is_refused():
    experts, information, norms = random_case(2)
    with pytest.raises(
        MethodInputError, match=r"values of 1 experts; norms of 0 experts.*Collect the observations"
    ):
        fisher(experts, Observed((information[0],), (9,)))
    wrong = [information[0][:3], -information[1]]
    with pytest.raises(
        MethodInputError, match=r"expert 0 has the shape \(3,\); that of expert 1 holds values that are neg"
    ):
        merge(experts, wrong, norms)
