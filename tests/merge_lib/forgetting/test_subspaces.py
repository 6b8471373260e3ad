import math

import pytest
import torch

from merge_lib.forgetting import subspaces as module
from merge_lib.forgetting.subspaces import (
    chance_level,
    common,
    leading,
    leading_of_merge,
    overlaps,
    shared_subspaces,
    subspaces,
)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def diagonal(*values, size=16):
    return torch.diag(torch.tensor([*values, *[0.0] * (size - len(values))], dtype=torch.float64))


def direction(size, seed):
    vector = random(size, seed=seed)
    return vector / vector.norm()


@pytest.mark.parametrize(
    ("values", "rank"),
    [((4, 1), 1), ((2, 1), 2), ((3, 3, 3, 1), 3), ((1,) * 16, 4), ((0,), 0)],  # at most a quarter of 16
)
def test_the_fewest_triplets_that_hold_nine_tenths(values, rank):
    (found,) = leading(diagonal(*values)[None])
    assert found.rank == rank
    assert found.left.shape == found.right.shape == (16, rank)
    torch.testing.assert_close(found.left.mT @ found.left, torch.eye(rank, dtype=torch.float64))


def test_the_cut_off_is_the_edge_of_random_subspaces():
    # two tasks: cos θ = 2 √(a (1 − a)) at most, in eigenvalues (1 + cos θ) / 2
    edge = (1 + 2 * math.sqrt(0.1 * 0.9)) / 2
    assert chance_level(2, 0.1, 10**12) == pytest.approx(edge, abs=1e-6)
    assert chance_level(2, 0.1, 8) == pytest.approx(edge + (1 - edge) / 4)
    assert chance_level(4, 0.0, 10**12) == pytest.approx(1 / 4, abs=1e-6)  # of a single task
    assert chance_level(2, 0.5, 64) == chance_level(4, 0.75, 64) == 1  # they must meet
    levels = [chance_level(5, share / 10, 64) for share in range(8)]
    assert levels == sorted(levels)


def test_a_planted_direction_is_found_and_no_other():
    left, right = direction(32, 1), direction(48, 2)
    noise = [torch.outer(direction(32, 10 + t), direction(48, 20 + t)) for t in range(3)]
    found = subspaces(torch.stack([4 * torch.outer(left, right) + 2 * one for one in noise]))
    assert found.shared.left.shape == (32, 1)
    assert found.shared.right.shape == (48, 1)
    assert abs(float(found.shared.left[:, 0] @ left)) > 0.95
    assert abs(float(found.shared.right[:, 0] @ right)) > 0.95
    assert [one.rank for one in found.leads] == [2, 2, 2]


@pytest.mark.parametrize("tasks", [2, 5, 20])
def test_experts_that_have_nothing_in_common_share_no_subspace(tasks):
    met = 0
    for seed in range(10):
        found = subspaces(random(tasks, 48, 48, seed=seed)).shared
        met += bool(found.left.shape[1] and found.right.shape[1])
    assert met == 0


def test_subspaces_that_must_meet_are_not_shared():
    found = subspaces(random(2, 2, 2))
    assert found.shared.left.shape == found.shared.right.shape == (2, 0)


def test_of_one_expert_and_of_zeros_nothing_is_shared():
    for rows in (random(1, 16, 16), torch.stack([random(16, 16), torch.zeros(16, 16)])):
        assert subspaces(rows).shared.left.shape == (16, 0)


def test_vectors_have_no_subspaces():
    assert subspaces(random(2, 16)) is None
    assert subspaces(random(2)) is None
    assert subspaces(torch.zeros(2, 0, 3)) is None


def test_more_axes_are_one_matrix():
    rows = random(2, 8, 4, 3, 3)
    first, other = subspaces(rows), subspaces(rows.reshape(2, 8, 36))
    for one, two in zip(first.leads, other.leads, strict=True):
        assert torch.equal(one.left, two.left)


def test_overlaps_by_hand():
    axes = torch.eye(4, dtype=torch.float64)
    turned = (axes[:, 1:2] + axes[:, 2:3]) / math.sqrt(2)
    found = overlaps([axes[:, :2], turned, axes[:, :0]])
    # one of two dimensions: half of the turned direction lies in the plane of the first two axes
    assert found[:2] == pytest.approx([0.5, 0.5])
    assert math.isnan(found[2])
    assert common(axes[:, :2], axes) == pytest.approx(2)
    assert math.isnan(overlaps([axes])[0])


def test_a_merge_has_no_more_directions_than_its_rank():
    found = leading_of_merge(diagonal(3, 1)[None], 4)
    assert found[0].rank == 2
    assert leading_of_merge(torch.zeros(1, 16, 16, dtype=torch.float64), 4)[0].rank == 0


def test_large_matrices_are_sketched_to_the_same_subspaces(monkeypatch):
    left, right = direction(64, 1), direction(64, 2)
    rows = torch.stack([20 * torch.outer(left, right) + 0.05 * random(64, 64, seed=t) for t in range(2)])
    exact = subspaces(rows)
    monkeypatch.setattr(module, "_EXACT", 1)
    sketched = subspaces(rows)
    assert [one.rank for one in sketched.leads] == [one.rank for one in exact.leads]
    for one, two in zip(exact.leads, sketched.leads, strict=True):
        assert common(one.left, two.left) == pytest.approx(one.rank, abs=1e-6)
    assert common(exact.shared.left, sketched.shared.left) == pytest.approx(1, abs=1e-6)
    assert shared_subspaces(exact.leads).left.shape == (64, 1)
