"""DOP against cases by hand, the spelled-out steps and its edges."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge_lib.continual.dop import State, anchor, dop, init, shortest
from merge_lib.layers import describe_layers
from merge_lib.trail import TakenTrail


def rows(count=3, shape=(5, 4), seed=0, dtype=torch.float64):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(
        dtype
    )


def fold(task_vectors, name="a.weight", **params):
    layer = describe_layers({name: tuple(task_vectors.shape[1:])})[name]
    state = init(None)
    for task_vector in task_vectors:
        merged, state = dop(state, task_vector, layer, **params)
    return merged


def loss(point, task_vector):
    """‖Σ Uᵀ D‖² + ‖D V Σ‖² with every triplet."""
    u, s, vt = torch.linalg.svd(task_vector, full_matrices=False)
    difference = point - task_vector
    return (torch.diag(s) @ u.T @ difference).square().sum() + (
        difference @ vt.T @ torch.diag(s)
    ).square().sum()


def spelled_out(old, new, steps, learning_rate, weight, decay):
    """The paper's solver with torch's Adam and torch's gradient."""
    point = torch.nn.Parameter((old + new) / 2)
    optimiser = torch.optim.Adam([point], lr=learning_rate)
    for _ in range(steps):
        slopes = []
        for task_vector in (old, new):
            value = loss(point, task_vector)
            slopes.append((torch.autograd.grad(value, point)[0] / value.detach()).flatten())
        first, second = slopes
        if first @ second >= first @ first:
            own = 0.999
        elif first @ second >= second @ second:
            own = 0.001
        else:
            own = float((second - first) @ second / (first - second).square().sum())
        weight = decay * weight + (1 - decay) * own
        optimiser.zero_grad()
        (weight * loss(point, old) + (1 - weight) * loss(point, new)).backward()
        optimiser.step()
    return point.detach()


def test_by_hand():
    # diag(2, 0) and diag(0, 2): the mean is diag(1, 1). The old loss there is 2·4·(−1)² in entry (0, 0), whose
    # gradient is −16, the new one's in (1, 1) likewise: one step of Adam moves both up by the learning rate.
    task_vectors = torch.tensor([[[2.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]]])
    merged = fold(task_vectors, steps=1, learning_rate=0.25)
    torch.testing.assert_close(merged, torch.tensor([[1.25, 0.0], [0.0, 1.25]]))
    # the directions do not meet, so in the end both stay as they were
    settled = fold(task_vectors, steps=3000, learning_rate=0.01)
    torch.testing.assert_close(settled, torch.tensor([[2.0, 0.0], [0.0, 2.0]]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(5, 4), (3, 6)])
@pytest.mark.parametrize("decay", [1.0, 0.9])
def test_it_takes_the_paper_s_steps(shape, decay):
    old, new = rows(2, shape)
    merged = fold(torch.stack([old, new]), steps=20, learning_rate=1e-2, decay=decay, weight=0.7, share=1)
    torch.testing.assert_close(merged, spelled_out(old, new, 20, 1e-2, 0.7, decay), rtol=1e-9, atol=1e-9)


def test_float32_is_near():
    narrow = fold(rows(3, dtype=torch.float32))
    torch.testing.assert_close(narrow.double(), fold(rows(3)), rtol=1e-4, atol=1e-4)


def test_the_first_expert_comes_back_bit_for_bit():
    first = rows(1)[0]
    merged = fold(first[None])
    assert torch.equal(merged, first)
    assert merged is not first


def test_no_steps_halve_the_past():
    task_vectors = rows(3)
    expected = task_vectors[0] / 4 + task_vectors[1] / 4 + task_vectors[2] / 2
    torch.testing.assert_close(fold(task_vectors, steps=0), expected)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("t", ()),
        ("a.bias", (5,)),
        ("e", (0,)),
        ("conv.weight", (3, 2, 2, 2)),
        ("a.weight", (0, 4)),
        ("a.weight", (4, 0)),
        ("embed_tokens.weight", (9, 4)),
    ],
)
def test_what_is_not_a_linear_weight_is_averaged(name, shape):
    old, new = rows(2, shape)
    torch.testing.assert_close(fold(rows(2, shape), name), (old + new) / 2)


@given(seed=st.integers(0, 1000), weight=st.floats(0, 1))
def test_the_weighted_loss_falls(seed, weight):
    """Small enough steps lead downhill from the mean."""
    old, new = rows(2, seed=seed)
    merged = fold(torch.stack([old, new]), weight=weight, decay=1, share=1, steps=20, learning_rate=1e-4)
    before, after = (
        weight * loss(point, old) + (1 - weight) * loss(point, new) for point in ((old + new) / 2, merged)
    )
    assert after <= before


def test_a_high_weight_stays_nearer_to_the_old():
    old, new = rows(2)
    near, far = (
        loss(fold(torch.stack([old, new]), weight=w, decay=1, learning_rate=1e-2), old) for w in (0.9, 0.1)
    )
    assert near < far


def test_a_share_keeps_the_first_triplets_and_the_one_that_completes_it():
    task_vector = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    for share, kept in ((0.4, [9.0, 0, 0]), (0.6, [9.0, 4, 0]), (0.999, [9.0, 4, 1]), (1.0, [9.0, 4, 1])):
        torch.testing.assert_close(anchor(task_vector, share).outputs, torch.diag(torch.tensor(kept)))
    one = torch.outer(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(anchor(one, 0.99999).outputs, one @ one.T)


def test_identical_zero_and_opposite_task_vectors():
    one = rows(1)[0]
    torch.testing.assert_close(fold(torch.stack([one, one, one])), one)
    assert not fold(torch.zeros(3, 4, 5)).any()
    merged = fold(torch.stack([one, torch.zeros_like(one)]), weight=0.5, learning_rate=1e-2)
    assert loss(merged, one) < loss(one / 2, one)  # what is zero has no directions to keep
    assert torch.isfinite(fold(torch.stack([one, -one]))).all()


def test_the_shortest_vector_between_two():
    right, up = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert shortest(right, up, (1.0, 1.0)) == pytest.approx(0.5)
    assert shortest(right, up, (1.0, 0.5)) == pytest.approx(0.8)  # of (1, 0) and (0, 2)
    assert shortest(right, 3 * right, (1.0, 1.0)) == 0.999
    assert shortest(3 * right, right, (1.0, 1.0)) == pytest.approx(0.001)
    assert shortest(0 * right, 0 * right, (1.0, 1.0)) == 0.999


def test_it_goes_on_from_its_state():
    task_vectors = rows(3)
    layer = describe_layers({"a.weight": (5, 4)})["a.weight"]
    before = fold(task_vectors[:2])
    merged, _ = dop(State(before.clone()), task_vectors[2], layer)
    assert torch.equal(merged, fold(task_vectors))


def test_the_trail_says_how_far_both_are():
    trail = TakenTrail()
    fold(rows(2), trail=trail, learning_rate=1e-2, weight=0.5, decay=1)
    start, end = (
        sum(trail.notes[f"loss of the {whose} {when}"][0] for whose in ("earlier merge", "new expert"))
        for when in ("at the mean", "left")
    )
    assert end < start
