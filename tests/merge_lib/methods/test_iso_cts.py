"""Iso-CTS against cases by hand, the spelled-out formula and its edges."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge_lib.methods.iso_c import iso_c
from merge_lib.methods.iso_cts import iso_cts, own_rank
from merge_lib.trail import TakenTrail


def rows(count=3, shape=(7, 5), seed=0, dtype=torch.float64):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(
        dtype
    )


def spelled_out(task_vectors, common):
    """The formula with whole decompositions."""
    count, r = len(task_vectors), min(task_vectors.shape[1:])
    own = round((r - int(r * common)) / count)
    k = r - own * count
    u, s, vt = torch.linalg.svd(task_vectors.sum(0), full_matrices=False)
    lefts, values, rights = [], [], []
    for task_vector in task_vectors:
        rest = task_vector - u[:, :k] @ u[:, :k].T @ task_vector
        u_t, s_t, vt_t = torch.linalg.svd(rest, full_matrices=False)
        lefts, values, rights = [*lefts, u_t[:, :own]], [*values, s_t[:own]], [*rights, vt_t[:own]]
    p_u, _, q_u = torch.linalg.svd(torch.cat([*lefts, u[:, :k]], 1), full_matrices=False)
    p_v, _, q_v = torch.linalg.svd(torch.cat([*rights, vt[:k]]), full_matrices=False)
    return torch.cat([*values, s[:k]]).mean() * (p_u @ q_u) @ (p_v @ q_v)


def test_by_hand():
    # 3 × 3, one direction common, one for each of two tasks. The sum is diag(8, 1, 3): e1 is common. Outside of
    # it task 1 has diag(0, −1, 3), so e3; task 2 has diag(0, 2, 0), so e2. The mean of 8, 3, 2 is 13/3.
    task_vectors = torch.stack([torch.diag(torch.tensor(d)) for d in ([4.0, -1.0, 3.0], [4.0, 2.0, 0.0])])
    merged = iso_cts(task_vectors, common=0.5)
    torch.testing.assert_close(merged, torch.diag(torch.full((3,), 13 / 3)))


@pytest.mark.parametrize(
    ("rank", "tasks", "common", "own"),
    [
        (10, 2, 0.8, 1),
        (768, 8, 0.8, 19),
        (5, 8, 0.8, 0),
        (7, 4, 0.0, 1),
        (6, 3, 1.0, 0),
        (4, 1, 0.5, 2),
        (5, 200, 0, 0),
    ],
)
def test_directions_of_each_task(rank, tasks, common, own):
    """768 of 8: 768 − ⌊614.4⌋ = 154, 154/8 = 19.25; 7 of 4: rounding asks for 2 each, more than there are."""
    assert own_rank(rank, tasks, common) == own


@pytest.mark.parametrize(("count", "shape"), [(3, (12, 9)), (2, (8, 20)), (4, (16, 16)), (1, (6, 6))])
@pytest.mark.parametrize("common", [0.5, 0.8])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_it_is_the_formula(count, shape, common, dtype):
    task_vectors = rows(count, shape, dtype=dtype)
    tolerance = 1e-11 if dtype == torch.float64 else 1e-4
    expected = spelled_out(task_vectors.double(), common)
    torch.testing.assert_close(
        iso_cts(task_vectors, common=common).double(), expected, rtol=tolerance, atol=tolerance
    )


@given(seed=st.integers(0, 1000), count=st.integers(1, 4))
def test_all_directions_common_is_iso_c_and_the_spectrum_is_flat(seed, count):
    task_vectors = rows(count, (9, 8), seed)
    torch.testing.assert_close(iso_cts(task_vectors, common=1), iso_c(task_vectors), rtol=1e-9, atol=1e-9)
    values = torch.linalg.svdvals(iso_cts(task_vectors, common=0.5))
    torch.testing.assert_close(values, values.mean().expand(8), rtol=1e-6, atol=1e-6)


def test_one_expert_is_iso_c():
    torch.testing.assert_close(iso_cts(rows(1)), iso_c(rows(1)))


def test_identical_experts_have_nothing_of_their_own_beyond_what_is_common():
    one = rows(1, (4, 4))[0]
    merged = iso_cts(torch.stack([one, one]), common=0.5)
    u, s, vt = torch.linalg.svd(one)
    # common: twice the first two; own: the third, twice the same direction, whitened to one
    mean = (2 * s[0] + 2 * s[1] + s[2] + s[2]) / 4
    torch.testing.assert_close(merged, mean * u[:, :3] @ vt[:3])


def test_opposite_experts_keep_what_is_their_own():
    one = rows(1, (4, 4))[0]
    merged = iso_cts(torch.stack([one, -one]), common=0.5)
    assert torch.isfinite(merged).all()
    assert merged.abs().max() < 1e-9  # the directions are the same, with opposite signs


@pytest.mark.parametrize("count", [6, 200])
def test_more_experts_than_rank(count):
    torch.testing.assert_close(iso_cts(rows(count, (5, 4))), iso_c(rows(count, (5, 4))))


def test_zero_task_vectors():
    assert not iso_cts(torch.zeros(3, 8, 9)).any()
    assert torch.isfinite(iso_cts(torch.cat([rows(2, (8, 9)), torch.zeros(1, 8, 9).double()]))).all()


@pytest.mark.parametrize("shape", [(), (5,), (0,), (3, 2, 2, 2), (0, 4), (4, 0)])
def test_what_is_not_a_matrix_is_averaged(shape):
    torch.testing.assert_close(iso_cts(rows(3, shape), scale=0.5), 0.5 * rows(3, shape).sum(0) / 3)


def test_the_trail_says_what_is_common():
    trail = TakenTrail()
    iso_cts(
        torch.stack([torch.diag(torch.tensor(d)) for d in ([4.0, 0.0, 3.0], [4.0, 0.0, 0.0])]),
        common=0.5,
        trail=trail,
    )
    assert trail.notes == {
        "energy in common directions": [pytest.approx(16 / 25), pytest.approx(1.0)],
        "directions kept": [2.0],
    }
