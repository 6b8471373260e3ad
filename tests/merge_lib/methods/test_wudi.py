"""WUDI against cases by hand, the spelled-out objective and its edges."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge_lib.layers import describe_layers
from merge_lib.methods import wudi as module
from merge_lib.methods.wudi import wudi
from merge_lib.trail import TakenTrail

SOLVERS = ["closed_form", "gradient"]


def rows(count=3, shape=(7, 5), seed=0, dtype=torch.float64):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(
        dtype
    )


def merge(task_vectors, name="a.weight", **params):
    layer = describe_layers({name: tuple(task_vectors.shape[1:])})[name]
    return wudi(task_vectors, layer, **params)


def objective(merged, task_vectors):
    """Σ_i ‖(Δ − τ_i) τ_iᵀ‖² / ‖τ_i‖², entry by entry."""
    total = torch.zeros((), dtype=merged.dtype)
    for own in task_vectors:
        for left in range(own.shape[0]):
            for right in range(own.shape[0]):
                total = total + ((merged[left] - own[left]) * own[right]).sum() ** 2 / own.square().sum()
    return total


def by_autograd(task_vectors, steps, learning_rate):
    """The paper's solver, with torch's Adam and torch's gradient."""
    merged = torch.nn.Parameter(task_vectors.sum(0))
    optimiser = torch.optim.Adam([merged], lr=learning_rate)
    for _ in range(steps):
        optimiser.zero_grad()
        objective(merged, task_vectors).backward()
        optimiser.step()
    return merged.detach()


def test_by_hand():
    # One row, two inputs: τ_1 = (2, 0), τ_2 = (1, 1). S = [[1, 0], [0, 0]] + ½ [[1, 1], [1, 1]], and
    # Δ S = (2, 0) + ½ (2, 2) = (3, 1): Δ (1, 0)ᵀ = 2 and Δ (1, 1)ᵀ = 2, so Δ = (2, 0), which disturbs neither.
    task_vectors = torch.tensor([[[2.0, 0.0]], [[1.0, 1.0]]])
    merged = merge(task_vectors)
    torch.testing.assert_close(merged, torch.tensor([[2.0, 0.0]]))
    assert objective(merged, task_vectors) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("count", "shape"), [(3, (4, 6)), (2, (3, 9)), (5, (6, 4)), (1, (4, 4))])
def test_the_closed_form_is_a_minimum(count, shape):
    task_vectors = rows(count, shape)
    merged = torch.nn.Parameter(merge(task_vectors))
    least = objective(merged, task_vectors)
    least.backward()
    assert merged.grad.abs().max() < 1e-10
    nearby = merged.detach() + 0.01 * rows(1, shape, seed=9)[0]
    assert objective(nearby, task_vectors) >= least


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_closed_form_is_a_least_squares_solution(dtype):
    """Of all τ_i / √c_i stacked, without squaring their condition."""
    task_vectors = rows(3, (8, 6), dtype=dtype).double()
    norms = task_vectors.square().sum((1, 2)).sqrt()[:, None, None]
    stacked = (task_vectors / norms).reshape(-1, 6)
    targets = torch.cat([one @ one.T / norm for one, norm in zip(task_vectors, norms, strict=True)])
    expected = torch.linalg.lstsq(stacked, targets.double()).solution.T
    tolerance = 1e-11 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(
        merge(task_vectors.to(dtype)).double(), expected, rtol=tolerance, atol=tolerance
    )


def test_the_gradient_solver_takes_the_paper_s_steps():
    task_vectors = 0.1 * rows(3, (4, 6))
    expected = by_autograd(task_vectors, 20, 1e-3)
    merged = merge(task_vectors, solver="gradient", steps=20, learning_rate=1e-3)
    torch.testing.assert_close(merged, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(merge(task_vectors, solver="gradient", steps=0), task_vectors.sum(0))


def test_many_steps_lead_to_the_closed_form():
    task_vectors = rows(2, (3, 4))
    merged = merge(task_vectors, solver="gradient", steps=6000, learning_rate=1e-2)
    torch.testing.assert_close(merged, merge(task_vectors), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_expert_comes_back_bit_for_bit(solver, dtype):
    task_vectors = rows(1, dtype=dtype)
    assert torch.equal(merge(task_vectors, solver=solver), task_vectors[0])


@given(seed=st.integers(0, 1000), sizes=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)))
def test_tasks_of_orthogonal_inputs_are_summed(seed, sizes):
    """Task vectors whose rows are orthogonal do not disturb each other, whatever their norms."""
    basis = torch.linalg.qr(rows(1, (6, 6), seed)[0]).Q
    parts = rows(2, (4, 3), seed + 1)
    task_vectors = torch.stack([sizes[0] * parts[0] @ basis[:3], sizes[1] * parts[1] @ basis[3:]])
    torch.testing.assert_close(merge(task_vectors), task_vectors.sum(0), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_zero_task_vector_changes_nothing(solver):
    task_vectors = rows(2)
    more = torch.cat([task_vectors, torch.zeros(1, 7, 5, dtype=torch.float64)])
    torch.testing.assert_close(merge(more, solver=solver), merge(task_vectors, solver=solver))
    assert not merge(torch.zeros(3, 7, 5), solver=solver).any()


def test_identical_experts_are_themselves_and_opposite_ones_cancel():
    one = rows(1)[0]
    torch.testing.assert_close(merge(torch.stack([one, one, one])), one)
    torch.testing.assert_close(merge(torch.stack([one, -one])), torch.zeros_like(one))


def test_inputs_that_no_task_uses_keep_nothing():
    """Rank 1 in 6 dimensions: a pseudo-inverse, and no noise in the null space."""
    low = torch.outer(torch.arange(1.0, 5.0), torch.arange(1.0, 7.0)).double()
    # (α − 1)² + (α − 2)² is least at 3/2
    torch.testing.assert_close(merge(torch.stack([low, 2 * low])), 1.5 * low)
    torch.testing.assert_close(merge(torch.stack([low, low])), low)


@pytest.mark.parametrize("solver", SOLVERS)
def test_two_hundred_experts(solver):
    assert torch.isfinite(merge(rows(200, (4, 3), dtype=torch.float32), solver=solver)).all()


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
        ("positional_embedding", (9, 4)),
    ],
)
def test_what_is_not_a_linear_weight_is_averaged(name, shape):
    torch.testing.assert_close(merge(rows(3, shape), name), rows(3, shape).sum(0) / 3)


def test_the_trail_says_what_interference_is_left():
    task_vectors, trail = rows(2, (3, 4)), TakenTrail()
    merged = merge(task_vectors, trail=trail)
    left = [float(objective(merged, task_vectors[i : i + 1])) for i in range(2)]
    assert trail.notes["interference left"] == pytest.approx(left)
    assert sum(left) <= sum(trail.notes["interference of the sum"])


def test_values_near_the_end_of_float32():
    merged = merge(1e37 * rows(2, dtype=torch.float32))
    torch.testing.assert_close(merged / 1e37, merge(rows(2, dtype=torch.float32)), rtol=1e-4, atol=1e-4)
    assert module.measure(1e37 * rows(2, dtype=torch.float32)).slope.isfinite().all()
