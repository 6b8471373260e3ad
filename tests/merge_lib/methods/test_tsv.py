"""TSV-Merge against cases by hand, the spelled-out formula and its edges."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import merge_lib
from merge_lib.methods.tsv import tsv
from merge_lib.trail import TakenTrail


def rows(count=3, shape=(7, 5), seed=0, dtype=torch.float64):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(
        dtype
    )


def spelled_out(task_vectors):
    """The formula with whole decompositions, triplet by triplet."""
    count, (m, n) = len(task_vectors), task_vectors.shape[1:]
    keep = max(1, min(m, n) // count)
    lefts, values, rights = [], [], []
    for task_vector in task_vectors:
        u, s, vt = torch.linalg.svd(task_vector, full_matrices=False)
        for i in range(keep):
            lefts, values, rights = [*lefts, u[:, i]], [*values, s[i]], [*rights, vt[i]]
    p_u, _, q_u = torch.linalg.svd(torch.stack(lefts, 1), full_matrices=False)
    p_v, _, q_v = torch.linalg.svd(torch.stack(rights), full_matrices=False)
    left, right = p_u @ q_u, p_v @ q_v
    merged = torch.zeros(m, n, dtype=task_vectors.dtype)
    for i, value in enumerate(values):
        merged += value * torch.outer(left[:, i], right[i])
    return merged


def test_by_hand():
    # Two tasks of 2 × 2 keep one triplet each: 3 e1 e1ᵀ and 2 e2 e2ᵀ, orthogonal already. The rest is dropped.
    task_vectors = torch.tensor([[[3.0, 0.0], [0.0, 1.0]], [[0.5, 0.0], [0.0, -2.0]]])
    torch.testing.assert_close(tsv(task_vectors), torch.tensor([[3.0, 0.0], [0.0, -2.0]]))
    # e1 and (e1 + e2)/√2 are turned by 22.5° away from one another: whitened they are at a right angle.
    slanted = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.5, 0.0], [0.5, 0.0]]]).double()
    angle = torch.tensor(torch.pi / 8).double()
    u1, u2 = torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])
    # both right vectors are e1: V̂ = [e1 e1] has the polar factor [e1 e1]/√2
    expected = (u1 + 0.5**0.5 * u2)[:, None] * torch.tensor([[0.5**0.5, 0.0]])
    torch.testing.assert_close(tsv(slanted), expected)


@pytest.mark.parametrize(("count", "shape"), [(3, (7, 5)), (2, (4, 9)), (5, (6, 6)), (4, (6, 6))])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_it_is_the_formula(count, shape, dtype):
    task_vectors = rows(count, shape, dtype=dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(
        tsv(task_vectors).double(), spelled_out(task_vectors.double()), rtol=tolerance, atol=tolerance
    )


def test_one_expert_comes_back():
    torch.testing.assert_close(tsv(rows(1)), rows(1)[0], rtol=1e-13, atol=1e-13)
    narrow = rows(1, (64, 32), dtype=torch.float32)
    torch.testing.assert_close(tsv(narrow), narrow[0], rtol=1e-6, atol=1e-6)


def test_orthogonal_tasks_of_low_rank_are_summed():
    basis = torch.linalg.qr(rows(1, (6, 6))[0]).Q
    task_vectors = torch.stack([3 * basis[:, :1] @ basis[:1], 2 * basis[:, 1:2] @ basis[1:2]])
    torch.testing.assert_close(tsv(task_vectors), task_vectors.sum(0))


def test_identical_experts_give_their_best_approximation():
    one = rows(1, (6, 6))[0]
    u, s, vt = torch.linalg.svd(one)
    best = (u[:, :3] * s[:3]) @ vt[:3]
    torch.testing.assert_close(tsv(torch.stack([one, one])), best)
    torch.testing.assert_close(tsv(torch.stack([one, one]).float()), best.float(), rtol=1e-5, atol=1e-5)


def test_opposite_experts_cancel():
    one = rows(1, (6, 6))[0]
    torch.testing.assert_close(tsv(torch.stack([one, -one])), torch.zeros_like(one))


def test_a_zero_task_vector_changes_nothing_but_the_number_of_triplets():
    one = rows(1, (6, 6))[0]
    u, s, vt = torch.linalg.svd(one)
    merged = tsv(torch.stack([one, torch.zeros_like(one)]))
    torch.testing.assert_close(merged, (u[:, :3] * s[:3]) @ vt[:3])


@pytest.mark.parametrize("count", [6, 200])
def test_more_experts_than_rank_keep_one_triplet_each(count):
    merged = tsv(rows(count, (5, 4)))
    assert torch.isfinite(merged).all()
    assert merged.abs().max() > 0.1  # not the base
    torch.testing.assert_close(merged, spelled_out(rows(count, (5, 4))))


@pytest.mark.parametrize("shape", [(), (5,), (0,), (3, 2, 2, 2), (0, 4), (4, 0)])
def test_what_is_not_a_matrix_is_averaged(shape):
    torch.testing.assert_close(tsv(rows(3, shape), scale=0.5), 0.5 * rows(3, shape).sum(0) / 3)


def test_a_frozen_layer_stays():
    assert not tsv(torch.zeros(3, 4, 5)).any()


def test_values_near_the_end_of_float32():
    merged = tsv(1e37 * rows(2, (6, 5), dtype=torch.float32))
    torch.testing.assert_close(merged / 1e37, tsv(rows(2, (6, 5), dtype=torch.float32)), rtol=1e-5, atol=1e-5)


def test_the_trail_says_what_was_dropped():
    trail = TakenTrail()
    tsv(torch.tensor([[[3.0, 0.0], [0.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]]), trail=trail)
    assert trail.notes == {"energy kept": [pytest.approx(16 / 25), 1.0], "triplets kept": [1.0, 0.0]}


def test_through_the_engine():
    base = {"w": torch.zeros(2, 2), "b": torch.tensor([1.0, 2.0])}
    experts = [{"w": torch.tensor([[3.0, 0.0], [0.0, 1.0]]), "b": torch.tensor([2.0, 2.0])}, base]
    merged = merge_lib.merge("tsv", experts, base)
    torch.testing.assert_close(merged["w"], torch.tensor([[3.0, 0.0], [0.0, 0.0]]))
    assert merged["b"].tolist() == [1.5, 2.0]


@given(seed=st.integers(0, 1000), count=st.integers(1, 5), turn=st.integers(0, 1000))
def test_turning_inputs_and_outputs_turns_the_result(seed, count, turn):
    """Only subspaces matter: tsv(P τ Qᵀ) = P tsv(τ) Qᵀ for orthogonal P and Q."""
    task_vectors = rows(count, (6, 4), seed)
    p, q = (torch.linalg.qr(rows(1, (size, size), turn)[0]).Q for size in (6, 4))
    torch.testing.assert_close(tsv(p @ task_vectors @ q.T), p @ tsv(task_vectors) @ q.T, rtol=1e-7, atol=1e-7)


def test_sketched_triplets_are_near_where_the_spectrum_falls():
    task_vectors = rows(3, (48, 40))
    task_vectors = task_vectors * 0.5 ** torch.arange(40)
    sketched, exact = tsv(task_vectors, svd="sketch"), tsv(task_vectors)
    assert (sketched - exact).norm() < 1e-3 * exact.norm()
