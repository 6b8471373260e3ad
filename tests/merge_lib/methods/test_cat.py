"""CAT Merging: cases by hand, dense matrices as a slow reference, its symmetries and edges."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_lib.errors import MethodInputError
from merge_lib.layers import Layer
from merge_lib.learned import Observed
from merge_lib.methods.cat import cat
from merge_lib.trail import TakenTrail

ALONE = {"scale": 1.0, "own_knowledge": 1.0, "own_knowledge_scales": 1.0}


def observe(features):
    values = tuple(torch.as_tensor(rows, dtype=torch.float64) for rows in features)
    return Observed(values, tuple(len(rows) for rows in values))


def merge(task_vectors, features, role="linear", parts=1, trail=None, **params):
    vectors = torch.as_tensor(task_vectors)
    layer = Layer("w", tuple(vectors.shape[1:]), role, parts=parts)
    observed = None if features is None else observe(features)
    return cat(vectors, layer, observed, **{**ALONE, **params}, **({} if trail is None else {"trail": trail}))


def matrices(*rows):
    return torch.stack([torch.tensor(row, dtype=torch.float64) for row in rows])


def random_case(count=3, outputs=7, inputs=5, rows=(4, 6, 3), seed=0):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(count, outputs, inputs, generator=generator, dtype=torch.float64)
    features = [
        torch.randn(rows[k % len(rows)], inputs, generator=generator, dtype=torch.float64)
        for k in range(count)
    ]
    return vectors, features


def dense(vectors, features, weight, rank):
    """The formulas with every matrix written out: trimmed task vectors."""
    count, outputs, _ = vectors.shape
    grams = [rows.T @ rows / len(rows) for rows in features]
    bases = []
    for k in range(count):
        conflict = torch.zeros(outputs, outputs, dtype=torch.float64)
        for i in range(count):
            if i != k:
                conflict += vectors[i] @ (grams[k] - weight * grams[i]) @ vectors[i].T
        values, directions = torch.linalg.eigh((conflict + conflict.T) / 2)
        order = [j for j in values.argsort(descending=True).tolist() if values[j] > 1e-10][:rank]
        bases.append(directions[:, order])
    trimmed = []
    for i in range(count):
        left = vectors[i]
        for k in range(count):
            if k != i:
                left = left - bases[k] @ bases[k].T @ left
        trimmed.append(left)
    return torch.stack(trimmed)


def conflict_of(vectors, features):
    return sum(
        float((features[k] @ vectors[i].T).square().sum())
        for k in range(len(vectors))
        for i in range(len(vectors))
        if i != k
    )


def test_two_diagonal_experts_by_hand():
    # G_1 = diag(4, −1), G_2 = diag(−1, 9): expert 2 loses the first output, expert 1 the second
    vectors = matrices([[1, 0], [0, 3]], [[2, 0], [0, 1]])
    features = [[[1, 0]], [[0, 1]]]
    trail = TakenTrail()
    assert merge(vectors, features, rank=1, trail=trail).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert trail.notes["directions or entries it removed from others"] == [1.0, 1.0]
    assert trail.notes["conflict it removed"] == [4.0, 9.0]
    assert trail.notes["removed energy"] == [0.9, 0.8]
    restored = merge(vectors, features, rank=1, restore_norm=True)
    torch.testing.assert_close(restored, torch.diag(torch.tensor([10.0, 5.0], dtype=torch.float64)).sqrt())


def test_a_scale_and_a_shift_by_hand():
    # g_1 = (9·1 − 9·0, 1·0 − 1·1, 4·1 − 4·1) = (9, −1, 0); expert 1 is zero, so g_2 is
    vectors = matrices([0, 0, 0], [3, 1, 2])
    trail = TakenTrail()
    merged = merge(vectors, [[[1, 0, 1]], [[0, 1, 1]]], "scale", masked_scales=1, trail=trail)
    assert merged.tolist() == [0.0, 1.0, 2.0]
    assert trail.notes["directions or entries it removed from others"] == [1.0, 0.0]
    assert trail.notes["conflict it removed"] == [9.0, 0.0]
    assert merge(matrices([0, 0, 0], [3, 1, -4]), None, "shift", masked_shifts=1).tolist() == [3.0, 1.0, 0.0]


def test_a_scale_with_its_norm_restored():
    merged = merge(
        matrices([0, 0, 0], [3, 0, 4]),
        [[[1, 0, 0]], [[0, 1, 0]]],
        "scale",
        masked_scales=1,
        restore_norm=True,
    )
    torch.testing.assert_close(merged.tolist(), [0.0, 0.0, 5.0])


@pytest.mark.parametrize("rows", [(1, 2, 1), (4, 6, 3), (40, 30, 20)])  # few rows, some, more than inputs
@pytest.mark.parametrize("outputs", [3, 7, 60])  # fewer than rows, and many more
@pytest.mark.parametrize(("weight", "rank"), [(0.0, 2), (1.0, 4), (0.3, 100)])
def test_the_dense_route(rows, outputs, weight, rank):
    vectors, features = random_case(4, outputs, 5, rows)
    expected = 0.4 * dense(vectors, features, weight, rank).sum(0)
    merged = merge(vectors, features, own_knowledge=weight, rank=rank, scale=0.4)
    torch.testing.assert_close(merged, expected, rtol=1e-8, atol=1e-8)


def test_trimming_in_float32_is_near_that_in_float64():
    vectors, features = random_case()
    merged = merge(vectors.float(), features, own_knowledge=0.5)
    assert merged.dtype == torch.float32
    torch.testing.assert_close(
        merged.double(), merge(vectors, features, own_knowledge=0.5), rtol=1e-5, atol=1e-5
    )


def test_one_expert_is_not_trimmed():
    vectors, features = random_case(1)
    trail = TakenTrail()
    assert torch.equal(merge(vectors, features, trail=trail), vectors[0])
    assert torch.equal(merge(vectors[:, 0], None, "shift"), vectors[0, 0])
    assert torch.equal(merge(vectors[:, 0], features, "scale"), vectors[0, 0])
    assert trail.notes["removed energy"] == [0.0]


@pytest.mark.parametrize("role", ["embedding", "other", "linear", "convolution", "scale"])
def test_what_no_data_reached_is_added_up(role):
    vectors, _ = random_case()
    trail = TakenTrail()
    assert torch.equal(
        merge(vectors, None, role, scale=0.4, trail=trail), 0.4 * (vectors[0] + vectors[1] + vectors[2])
    )
    assert trail.notes == {"reached by data": [0.0], "removed energy": [0.0] * 3}


def test_embeddings_stay_even_where_they_were_observed():
    vectors, features = random_case()
    assert torch.equal(merge(vectors, features, "embedding", rank=3), vectors[0] + vectors[1] + vectors[2])


def test_own_knowledge_that_outweighs_everything_stops_the_trim():
    vectors, features = random_case(3, 3, 4, (9, 9, 9))
    plain = vectors[0] + vectors[1] + vectors[2]
    assert torch.equal(merge(vectors, features, own_knowledge=1e9), plain)
    assert not torch.equal(merge(vectors, features, own_knowledge=0.0), plain)
    scales = [rows[:, :3] for rows in features]
    assert torch.equal(merge(vectors[:, :, 0], scales, "scale", own_knowledge_scales=1e9), plain[:, 0])


def test_tasks_that_use_different_inputs_are_added_up():
    vectors, features = random_case(2, 5, 6, (4, 4))
    vectors[0, :, 3:] = 0
    vectors[1, :, :3] = 0
    features[0][:, 3:] = 0
    features[1][:, :3] = 0
    assert torch.equal(merge(vectors, features), vectors[0] + vectors[1])


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_identical_experts_do_not_conflict(weight):
    vectors, features = random_case(1)
    assert torch.equal(
        merge(vectors.repeat(3, 1, 1), features * 3, own_knowledge=weight),
        vectors[0] + vectors[0] + vectors[0],
    )


@pytest.mark.parametrize("restore", [False, True])
def test_with_no_own_knowledge_and_every_direction_nothing_is_left(restore):
    vectors, features = random_case(2, 4, 5, (9, 9))
    merged = merge(vectors, features, own_knowledge=0.0, rank=100, restore_norm=restore)
    torch.testing.assert_close(merged, torch.zeros_like(merged), rtol=0, atol=1e-12)
    if restore:
        assert not merged.any()


def test_equal_eigenvalues_stay_together():
    # expert 2 disturbs expert 1 equally in every direction
    vectors = torch.stack([torch.zeros(3, 3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)])
    features = [torch.eye(3).tolist(), [[0.0, 0.0, 0.0]]]
    assert torch.equal(merge(vectors, features, rank=2), vectors[1])
    torch.testing.assert_close(merge(vectors, features, rank=3), vectors[0], rtol=0, atol=1e-12)
    ties = matrices([0, 0, 0, 0], [2, -2, 5, 1])
    assert merge(ties, None, "shift", masked_shifts=2).tolist() == [2.0, -2.0, 0.0, 1.0]
    assert merge(ties, None, "shift", masked_shifts=3).tolist() == [0.0, 0.0, 0.0, 1.0]


def test_more_rows_of_features_weigh_no_more():
    vectors, features = random_case()
    repeated = [features[0].repeat(50, 1), *features[1:]]
    torch.testing.assert_close(merge(vectors, repeated), merge(vectors, features), rtol=1e-9, atol=1e-9)


def test_packed_matrices_are_trimmed_part_by_part():
    vectors, features = random_case(3, 6, 5)
    params = {"own_knowledge": 0.2, "rank": 1}
    parts = [merge(part, features, **params) for part in vectors.split(2, dim=1)]
    torch.testing.assert_close(merge(vectors, features, parts=3, **params), torch.cat(parts))
    shifts = vectors[:, :, 0]
    parts = [merge(part, None, "shift", masked_shifts=1) for part in shifts.split(2, dim=1)]
    assert torch.equal(merge(shifts, None, "shift", parts=3, masked_shifts=1), torch.cat(parts))


def test_kernels_are_matrices_over_patches():
    vectors, features = random_case(3, 4, 12)
    merged = merge(vectors.reshape(3, 4, 3, 2, 2), features, "convolution", own_knowledge=0.1)
    assert torch.equal(merged.reshape(4, 12), merge(vectors, features, own_knowledge=0.1))


def test_groups_of_a_convolution_see_their_own_patches():
    vectors, features = random_case(3, 6, 8)
    halves = [
        merge(vectors[:, rows, :4], [values[:, columns] for values in features], own_knowledge=0.1, rank=1)
        for rows, columns in ((slice(0, 3), slice(0, 4)), (slice(3, 6), slice(4, 8)))
    ]
    kernels = vectors[:, :, :4].reshape(3, 6, 1, 2, 2)
    merged = merge(kernels, features, "convolution", own_knowledge=0.1, rank=1)
    torch.testing.assert_close(merged.reshape(6, 4), torch.cat(halves))


def test_two_experts_in_either_order():
    vectors, features = random_case(2)
    turned = merge(vectors.flip(0), features[::-1], own_knowledge=0.5)
    torch.testing.assert_close(merge(vectors, features, own_knowledge=0.5), turned)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(2, 4),
    factor=st.sampled_from([0.01, -2.0, 30.0]),
    loudness=st.sampled_from([0.001, 5.0]),
)
def test_symmetries(seed, count, factor, loudness):
    """A factor on the task vectors or on all features; rotations of the outputs and of the inputs."""
    vectors, features = random_case(count, 6, 5, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    left, right = (
        torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
        for size in (6, 5)
    )
    params = {"own_knowledge": 0.7, "rank": 2}
    merged = merge(vectors, features, **params)
    for other in (
        merge(factor * vectors, features, **params) / factor,
        merge(vectors, [loudness * rows for rows in features], **params),
        left.T @ merge(left @ vectors, features, **params),
        merge(vectors @ right.T, [rows @ right.T for rows in features], **params) @ right,
    ):
        torch.testing.assert_close(other, merged, rtol=1e-7, atol=1e-7)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), count=st.integers(2, 4), rank=st.integers(0, 6), weight=st.floats(0, 5))
def test_conflict_never_grows(seed, count, rank, weight):
    vectors, features = random_case(count, seed=seed)
    trimmed = dense(vectors, features, weight, rank)
    merged = merge(vectors, features, own_knowledge=weight, rank=rank)
    torch.testing.assert_close(merged, trimmed.sum(0), rtol=1e-6, atol=1e-6)
    assert conflict_of(trimmed, features) <= conflict_of(vectors, features) * (1 + 1e-9)


def test_many_experts_and_a_frozen_layer():
    vectors, features = random_case(200, 3, 2, (1,))
    assert torch.isfinite(merge(vectors, features)).all()
    frozen = torch.zeros_like(vectors)
    assert not merge(frozen, features, own_knowledge=0.0).any()
    assert not merge(frozen, features, own_knowledge=0.0, restore_norm=True).any()


@pytest.mark.parametrize(
    ("shape", "role"), [((), "other"), ((0,), "scale"), ((0, 4), "linear"), ((0,), "shift")]
)
def test_tensors_without_axes_or_entries(shape, role):
    vectors = torch.ones(2, *shape, dtype=torch.float64)
    features = None if role == "other" else [torch.ones(3, 4 if role == "linear" else 0)] * 2
    assert merge(vectors, features, role).shape == shape
    assert merge(vectors, None, role).shape == shape


def test_an_expert_without_rows_disturbs_nobody():
    vectors, features = random_case(2)
    features[0] = features[0][:0]
    assert torch.isfinite(merge(vectors, features)).all()
    scales = [rows[:, :4] for rows in features]
    assert torch.isfinite(merge(vectors[:, 0, :4], scales, "scale")).all()


def test_observations_of_another_layer_are_refused():
    vectors, features = random_case(2)
    broken = [features[0][:, :3], torch.full((4, 5), float("nan"))]
    expected = r"expert 0 has the shape \(4, 3\), expected 2 axes, the last 5; that of expert 1 holds values that are"
    with pytest.raises(MethodInputError, match=expected):
        merge(vectors, broken)
    with pytest.raises(MethodInputError, match=r"there are 1 for 2 experts.*Collect the observations again"):
        merge(vectors, features[:1])
    with pytest.raises(
        MethodInputError, match=r"expert 0 has the shape \(4, 10\), expected 2 axes, the last 5"
    ):
        merge(vectors[:, 0], [rows.repeat(1, 2) for rows in features], "scale")
