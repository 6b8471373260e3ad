"""LOT Merging: cases by hand, the normal equations as a slow reference, its symmetries and edges."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_lib.errors import MethodInputError
from merge_lib.layers import Layer
from merge_lib.learned import Observed
from merge_lib.methods.lot import lot
from merge_lib.trail import TakenTrail


def merge(task_vectors, features, role="linear", parts=1, **params):
    layer = Layer("w", tuple(task_vectors.shape[1:]), role, parts=parts)
    observed = None
    if features is not None:
        values = tuple(torch.as_tensor(rows, dtype=torch.float64) for rows in features)
        observed = Observed(values, tuple(map(len, values)))
    return lot(task_vectors, layer, observed, **params)


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def random_case(count=3, outputs=4, inputs=5, rows=(4, 9, 6), seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return normal(count, outputs, inputs), [normal(rows[k % len(rows)], inputs) for k in range(count)]


def drift(merged, vectors, features):
    return sum(
        float(((merged - vector) @ rows.T).square().sum()) / len(rows)
        for vector, rows in zip(vectors, features, strict=True)
    )


def test_each_expert_gets_its_inputs_by_hand():
    # input 1 is expert 1's alone, input 2 expert 2's, input 3 both's with squares 1 and 9, input 4 nobody's
    vectors = torch.stack([tensor([1, 2, 3, 4]), tensor([5, 6, 7, 8])])
    features = [[[1, 0, 0, 0], [0, 0, 1, 0]], [[0, 2, 0, 0], [0, 0, 3, 0]]]
    trail = TakenTrail()
    merged = merge(vectors, features, trail=trail)
    torch.testing.assert_close(merged, tensor([1, 6, (3 + 9 * 7) / 10, 0]))
    assert trail.notes["directions in the data"] == [3.0]
    assert trail.notes["energy outside of the data"] == pytest.approx([16 / 30, 64 / 174])
    # expert 1: 3.6² of 1 + 9; expert 2: 9·0.4² of 4·36 + 9·49
    assert trail.notes["drift left"] == pytest.approx([3.6**2 / 10, 9 * 0.4**2 / 585])


def test_a_scale_and_a_shift_by_hand():
    vectors = tensor([1.0, 2.0, 4.0], [5.0, 6.0, 8.0])
    # mean squares (1, 4, 0) and (3, 0, 0)
    features = [[[1, 2, 0]], [[3**0.5, 0, 0]]]
    torch.testing.assert_close(merge(vectors, features, "scale"), tensor(4, 2, 6))
    assert merge(vectors, None, "shift").tolist() == [3.0, 4.0, 6.0]


@pytest.mark.parametrize("role", ["embedding", "other", "linear", "scale"])
def test_what_no_data_reached_is_the_mean(role):
    vectors, _ = random_case()
    trail = TakenTrail()
    torch.testing.assert_close(merge(vectors, None, role, scale=0.3, trail=trail), 0.3 * vectors.mean(0))
    assert trail.notes == {"reached by data": [0.0]}


@pytest.mark.parametrize("rows", [(1, 1, 2), (2, 3, 1), (4, 9, 6), (30, 20, 10)])
def test_the_pseudo_inverse_written_out(rows):
    vectors, features = random_case(rows=rows)
    grams = [rows.T @ rows / len(rows) for rows in features]
    weighted = sum(vector @ gram for vector, gram in zip(vectors, grams, strict=True))
    expected = weighted @ torch.linalg.pinv(sum(grams), rtol=1e-10, hermitian=True)
    torch.testing.assert_close(merge(vectors, features), expected, rtol=1e-8, atol=1e-8)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 5), size=st.floats(1e-3, 1.0))
def test_no_other_task_vector_moves_the_features_less(seed, count, size):
    vectors, features = random_case(count, rows=(2, 3), seed=seed)
    merged = merge(vectors, features)
    least = drift(merged, vectors, features)
    generator = torch.Generator().manual_seed(seed + 1)
    other = merged + size * torch.randn(merged.shape, generator=generator, dtype=torch.float64)
    assert least <= drift(other, vectors, features)
    assert least <= drift(vectors.mean(0), vectors, features) * (1 + 1e-9) + 1e-12


@settings(max_examples=20)
@given(
    seed=st.integers(0, 10_000), factor=st.sampled_from([-3.0, 0.01]), loudness=st.sampled_from([0.01, 50.0])
)
def test_symmetries(seed, factor, loudness):
    """A factor on the task vectors or on all features; rotations of outputs and inputs; order."""
    vectors, features = random_case(3, rows=(1, 2, 1), seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    left, right = (
        torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
        for size in (4, 5)
    )
    merged = merge(vectors, features)
    for other in (
        merge(factor * vectors, features) / factor,
        merge(vectors, [loudness * rows for rows in features]),
        left.T @ merge(left @ vectors, features),
        merge(vectors @ right.T, [rows @ right.T for rows in features]) @ right,
        merge(vectors.flip(0), features[::-1]),
    ):
        torch.testing.assert_close(other, merged, rtol=1e-6, atol=1e-6)


def test_one_expert_comes_back_on_what_its_data_contain():
    vectors, features = random_case(1, rows=(9,))
    torch.testing.assert_close(merge(vectors, features), vectors[0])
    few = features[0][:2]
    projection = torch.linalg.pinv(few) @ few
    torch.testing.assert_close(merge(vectors, [few]), vectors[0] @ projection)


def test_identical_experts_are_as_one_and_opposite_ones_cancel():
    vectors, features = random_case(1, rows=(9,))
    same = vectors.repeat(3, 1, 1)
    torch.testing.assert_close(merge(same, features * 3), vectors[0])
    opposite = torch.cat([vectors, -vectors])
    torch.testing.assert_close(
        merge(opposite, features * 2), torch.zeros_like(vectors[0]), rtol=0, atol=1e-12
    )


def test_more_rows_of_features_weigh_no_more():
    vectors, features = random_case()
    repeated = [features[0].repeat(50, 1), *features[1:]]
    torch.testing.assert_close(merge(vectors, repeated), merge(vectors, features))


def test_weak_directions_fall_below_the_cutoff():
    vectors = torch.stack([tensor([2, 2])])
    features = [[[1.0, 0.0], [0.0, 0.01]]]
    torch.testing.assert_close(merge(vectors, features), tensor([2, 2]))
    torch.testing.assert_close(merge(vectors, features, cutoff=0.02), tensor([2, 0]))


def test_kernels_and_groups():
    vectors, features = random_case(3, 4, 12)
    merged = merge(vectors.reshape(3, 4, 3, 2, 2), features, "convolution")
    assert torch.equal(merged.reshape(4, 12), merge(vectors, features))
    kernels = vectors[:, :, :6].reshape(3, 4, 3, 2)
    halves = [
        merge(kernels[:, rows].reshape(3, 2, 6), [values[:, columns] for values in features])
        for rows, columns in ((slice(0, 2), slice(0, 6)), (slice(2, 4), slice(6, 12)))
    ]
    torch.testing.assert_close(merge(kernels, features, "convolution").reshape(4, 6), torch.cat(halves))


def test_parts_of_a_packed_matrix_change_nothing():
    vectors, features = random_case(3, 6)
    assert torch.equal(merge(vectors, features, parts=3), merge(vectors, features))


def test_many_experts_frozen_layers_and_experts_without_data():
    vectors, features = random_case(200, 2, 3, (1,))
    assert torch.isfinite(merge(vectors, features)).all()
    assert not merge(torch.zeros_like(vectors), features).any()
    silent = [torch.zeros(0, 3) for _ in vectors]
    assert not merge(vectors, silent).any()  # nothing is in the data
    torch.testing.assert_close(merge(vectors[:, 0], silent, "scale"), vectors[:, 0].mean(0))


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (4, 0)])
def test_tensors_without_axes_or_entries(shape):
    vectors = torch.ones(2, *shape, dtype=torch.float64)
    assert merge(vectors, None, "linear" if len(shape) == 2 else "other").shape == shape


def test_observations_of_another_layer_are_refused():
    vectors, features = random_case()
    with pytest.raises(
        MethodInputError, match=r"of expert 1 has the shape \(9, 4\), expected 2 axes, the last 5"
    ):
        merge(vectors, [features[0], features[1][:, :4], features[2]])
