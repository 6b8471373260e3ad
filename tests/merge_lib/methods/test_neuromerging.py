"""NeuroMerging: cases by hand, the route by singular vectors as a slow reference, its symmetries and edges."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import merge_lib
from merge_lib.layers import Layer
from merge_lib.methods.neuromerging import begin, close, fold, neuromerging
from merge_lib.trail import TakenTrail

PLAIN = {"density": 1.0, "compensate": False, "parallel_scale": 1.0}


def merge(base, task_vectors, dtype=torch.float64, **params):
    """One matrix of one neuron for a list, or a tensor as given."""
    start = torch.as_tensor(base, dtype=dtype)
    rows = [torch.as_tensor(row, dtype=dtype) for row in task_vectors]
    if isinstance(base, list):
        start, rows = start[None], [row[None] for row in rows]
    merged = merge_lib.merge("neuromerging", [{"w": start + row} for row in rows], {"w": start}, **params)
    return merged["w"] - start


def apply(task_vectors, base, trail, tensors=(), **params):
    """The function itself, after its passes over `tensors`, or over the one alone."""
    settings = {"density": 0.15, "compensate": True, **params}
    state = begin(len(task_vectors), task_vectors.dtype, **settings)
    while not state.complete:
        for tensor in tensors or (task_vectors,):
            state = fold(state, tensor, Layer("w", tuple(tensor.shape[1:])))
        state = close(state)
    return neuromerging(task_vectors, base, state, **settings, trail=trail)


def random_case(count, rows, length, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    sizes = 1 + torch.arange(count, dtype=dtype)[:, None, None] / 3  # no two experts alike in length
    base = torch.randn(rows, length, generator=generator, dtype=dtype)
    return base, sizes * torch.randn(count, rows, length, generator=generator, dtype=dtype)


def elect(numbers, floor):
    counted = [number for number in numbers if abs(number) > floor]
    total = math.fsum(counted)
    if abs(total) <= 1e-6 * math.fsum(abs(number) for number in counted):
        return 0.0
    agreeing = [number for number in counted if number * total > 0]
    return math.fsum(agreeing) / len(agreeing)


def reference(base, task_vectors, parallel_scale, orthogonal_scale):
    """Row by row with the singular vectors themselves."""
    merged = torch.zeros_like(base)
    for row, weights in enumerate(base):
        unit = weights / weights.norm()
        vectors = task_vectors[:, row]
        along = vectors @ unit
        across = vectors - along[:, None] * unit
        _, values, directions = torch.linalg.svd(across, full_matrices=False)
        coordinates = across @ directions.T
        means = [elect(column.tolist(), 1e-6 * values[0].item()) for column in coordinates.T]
        orthogonal = torch.tensor(means, dtype=torch.float64) @ directions
        merged[row] = parallel_scale * elect(along.tolist(), 0) * unit + orthogonal_scale * orthogonal
    return merged


@pytest.mark.parametrize(
    ("vectors", "scales", "expected"),
    [
        ([[1, 3, 0], [1, 0, 1]], (0, 1), [0, 3, 1]),  # orthogonal parts of different length add up
        ([[1, 3, 0], [1, 0, 1]], (1, 1), [1, 3, 1]),
        ([[1, 3, 0], [-0.5, -1, 0]], (1, 1), [1, 3, 0]),  # the loser is dropped
        ([[0, 3, 0], [0, 1, 0], [0, -2, 0]], (0, 1), [0, 2, 0]),  # (3 + 1)/2
        ([[1, 3, 4], [1, 3, 4]], (1, 1), [1, 3, 4]),
        ([[1, 3, 4], [1, 3, 4]], (0, 1), [0, 3, 4]),
        ([[1, 3, 4], [1, 3, 4]], (2, 0.5), [2, 1.5, 2]),
        ([[1, 3, 4], [-1, -3, -4]], (1, 1), [0, 0, 0]),
        ([[5, 0, 0], [1, 0, 0]], (0, 1), [0, 0, 0]),  # nothing is orthogonal
        ([[0, 0, 0], [1, 2, 0]], (1, 1), [1, 2, 0]),
    ],
)
def test_one_neuron_by_hand(vectors, scales, expected):
    parallel, orthogonal = map(float, scales)
    params = {**PLAIN, "parallel_scale": parallel, "orthogonal_scale": orthogonal}
    merged = merge([2.0, 0.0, 0.0], [[float(x) for x in row] for row in vectors], **params)
    torch.testing.assert_close(merged[0], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_masks_and_the_mass_that_they_remove():
    # keep 20 % of 5: k = 4, the threshold is 4, and {4, 10} survive; removed 1 + 2 + 3 of 20, λ2 = 1/(1 − 0.3)
    trail = TakenTrail()
    vectors = torch.tensor([[1.0, -2.0, 3.0, -4.0, 10.0]], dtype=torch.float64)
    merged = apply(vectors, torch.zeros(5, dtype=torch.float64), trail, density=0.2)
    torch.testing.assert_close(merged.tolist(), [0.0, 0.0, 0.0, -4 / 0.7, 10 / 0.7])
    assert trail.notes["share kept"] == [0.4]
    assert trail.notes["removed mass"] == pytest.approx([0.3])
    assert trail.notes["removed mass of the model"] == pytest.approx([0.3])
    assert trail.notes["orthogonal scale"] == pytest.approx([1 / 0.7])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threshold_and_mass_are_the_model_s(dtype):
    first = torch.tensor([[8.0, 7.0], [1.0, 1.0]], dtype=dtype)
    second = torch.tensor([[1.0, 1.0], [8.0, 7.0]], dtype=dtype)
    trail = TakenTrail()
    base = torch.zeros(2, dtype=dtype)
    # of 4 entries keep a half: k = 2, so the second smallest is kept, too, which is 1: nothing is removed
    apply(first, base, trail, (first, second), density=0.5)
    assert trail.notes["share kept"] == [1.0, 1.0]
    # keep a quarter: k = 3, the threshold is 7; 2 of 17 go, from one tensor only of each expert
    merged = apply(first, base, trail, (first, second), density=0.25)
    assert trail.notes["share kept"] == [1.0, 0.0]
    assert trail.notes["removed mass of the model"] == pytest.approx([2 / 17, 2 / 17])
    torch.testing.assert_close(merged, torch.tensor([8.0, 7.0], dtype=dtype) * 17 / 15)


def test_the_compensation_is_at_most_eight():
    vectors = torch.full((1, 100), 1.0)
    vectors[0, 0] = (
        2.0  # a hundredth is kept with k = 99: two survive by count, one by size, and all that are 1
    )
    vectors[0, 1:] = torch.linspace(1, 1.001, 99)
    trail = TakenTrail()
    apply(vectors, torch.zeros(100), trail, density=0.01)
    assert trail.notes["orthogonal scale"] == [8.0]


def test_it_can_be_left_out():
    vectors = torch.tensor([[1.0, 2.0, 3.0, 4.0, 10.0]])
    trail = TakenTrail()
    merged = apply(vectors, torch.zeros(5), trail, density=0.2, compensate=False, orthogonal_scale=2.0)
    assert merged.tolist() == [0.0, 0.0, 0.0, 8.0, 20.0]
    assert trail.notes["removed mass of the model"] == [0.0]  # not looked at


@pytest.mark.parametrize(("count", "length"), [(1, 7), (2, 9), (3, 3), (5, 40), (7, 4), (4, 1)])
def test_the_route_by_singular_vectors(count, length):
    base, vectors = random_case(count, 11, length)
    params = {**PLAIN, "parallel_scale": 0.3, "orthogonal_scale": 0.9}
    expected = reference(
        base, vectors, 0.3, 0.9 if length > 1 else 0.0
    )  # in one dimension nothing is orthogonal
    torch.testing.assert_close(merge(base, vectors, **params), expected, rtol=1e-9, atol=1e-9)


def test_rounding_has_no_vote():
    # two orthogonal experts add up; an exact test for zero would halve most of them
    generator = torch.Generator().manual_seed(3)
    basis = torch.linalg.qr(torch.randn(200, 64, 3, generator=generator, dtype=torch.float64)).Q
    base, first, second = (2 * basis[:, :, 0]).float(), (3 * basis[:, :, 1]).float(), basis[:, :, 2].float()
    merged = merge(base, [first, second], torch.float32, **PLAIN)
    torch.testing.assert_close(merged, first + second, rtol=0, atol=2e-6)


def test_with_the_defaults_the_result_is_orthogonal_to_the_base():
    base, vectors = random_case(1, 6, 10)
    merged = merge(base, vectors, density=1.0)
    torch.testing.assert_close(
        (merged * base).sum(1), torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-12
    )
    across = vectors[0] - (vectors[0] * base).sum(1, keepdim=True) / (base**2).sum(1, keepdim=True) * base
    torch.testing.assert_close(merged, across)


def test_a_lower_energy_leaves_directions_out():
    trail = TakenTrail()
    base = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    vectors = torch.tensor([[[0.0, 3.0, 0.0]], [[0.0, 0.0, 1.0]]], dtype=torch.float64)
    assert apply(vectors, base, trail, density=1.0, energy=0.9).tolist() == [[0.0, 3.0, 0.0]]  # 9 of 10
    assert trail.notes["cut energy"] == [0.0, 1.0]
    assert apply(vectors, base, trail, density=1.0, energy=0.91).tolist() == [[0.0, 3.0, 1.0]]
    assert trail.notes["cut energy"] == [0.0, 0.0]


def test_the_trail_says_what_was_removed():
    trail = TakenTrail()
    base = torch.tensor([[2.0, 0.0, 0.0]], dtype=torch.float64)
    vectors = torch.tensor([[[4.0, 3.0, 0.0]], [[3.0, -1.0, 0.0]]], dtype=torch.float64)
    apply(vectors, base, trail, density=1.0)
    assert trail.notes["parallel energy"] == pytest.approx([16 / 25, 9 / 10])
    assert trail.notes["outvoted energy"] == pytest.approx([0, 1 / 10])
    assert trail.notes["cut energy"] == pytest.approx([0, 0])
    apply(vectors[:, 0], base[0], trail, density=1.0)  # as a vector, entry by entry
    assert trail.notes["outvoted energy"] == pytest.approx([0, 1 / 10])


@settings(max_examples=15)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(2, 5),
    factor=st.sampled_from([0.01, 0.5, 3.0, -1.0, -7.0]),
    stretch=st.sampled_from([-3.0, 0.2, 40.0]),
)
def test_symmetries(seed, count, factor, stretch):
    """The task vectors' scale and sign, the base's scale, the order and a joint rotation."""
    base, vectors = random_case(count, 4, 12, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    turn = torch.linalg.qr(torch.randn(12, 12, generator=generator, dtype=torch.float64)).Q
    params = {**PLAIN, "parallel_scale": 0.4}
    merged = merge(base, vectors, **params)
    for other in (
        merge(base, factor * vectors, **params) / factor,
        merge(stretch * base, vectors, **params),
        merge(base, vectors.flip(0), **params),
        merge(base @ turn, vectors @ turn, **params) @ turn.T,
    ):
        torch.testing.assert_close(other, merged, rtol=1e-8, atol=1e-8)


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), count=st.integers(1, 6), length=st.integers(1, 9))
def test_the_orthogonal_part_is_no_longer_than_the_experts_together(seed, count, length):
    base, vectors = random_case(count, 3, length, seed)
    across = vectors - (vectors * base).sum(2, keepdim=True) / (base**2).sum(1, keepdim=True) * base
    merged = merge(base, vectors, density=1.0, compensate=False)
    assert (merged.norm(dim=1) <= (across**2).sum(dim=(0, 2)).sqrt() * (1 + 1e-9) + 1e-12).all()


@settings(max_examples=15)
@given(
    cut=st.integers(1, 12),
    count=st.integers(1, 9),
    length=st.integers(1, 70),
    dtype=st.sampled_from([32, 64]),
)
def test_rows_are_the_same_bytes_whatever_is_beside_them(cut, count, length, dtype):
    base, vectors = random_case(count, 13, length, dtype=getattr(torch, f"float{dtype}"))
    state = begin(count, vectors.dtype, density=1.0, compensate=True)
    params = {"density": 1.0, "parallel_scale": 0.5}
    whole = neuromerging(vectors, base, state, **params)
    pieces = [
        neuromerging(vectors[:, rows], base[rows], state, **params) for rows in (slice(cut), slice(cut, 13))
    ]
    assert torch.equal(torch.cat(pieces), whole)


def test_the_passes_do_not_depend_on_the_pieces():
    _, vectors = random_case(3, 8, 5, dtype=torch.float32)
    layer = Layer("w", (8, 5))
    states = []
    for pieces in ([vectors], [vectors[:, :3], vectors[:, 3:]]):
        state = begin(3, torch.float32, density=0.3, compensate=True)
        passes = 0
        while not state.complete:
            for piece in pieces:
                state = fold(state, piece, layer)
            state, passes = close(state), passes + 1
        states.append(state)
        assert passes == 3
    assert states[0].removed_shares == states[1].removed_shares
    kept = states[0].thresholds.values
    exact = [
        math.fsum(x for x in row if x < kept[i]) / math.fsum(row)
        for i, row in enumerate(vectors.abs().reshape(3, -1).tolist())
    ]
    assert states[0].removed_shares == pytest.approx(exact, rel=1e-15)


def test_kernels_and_tables_are_neurons_of_the_first_axis():
    base, vectors = random_case(3, 4, 12)
    flat = merge(base, vectors, **PLAIN)
    kernel = merge(base.reshape(4, 3, 2, 2), vectors.reshape(3, 4, 3, 2, 2), **PLAIN)
    assert torch.equal(kernel.reshape(4, 12), flat)


def test_neurons_of_zeros_and_frozen_ones():
    base, vectors = random_case(2, 3, 6)
    base[0] = 0.0
    vectors[:, 1] = 0.0
    merged = merge(base, vectors, **{**PLAIN, "parallel_scale": 5.0})
    assert torch.isfinite(merged).all()
    assert torch.equal(merged[1], torch.zeros(6, dtype=torch.float64))
    unit = torch.tensor([1.0, 0, 0, 0, 0, 0], dtype=torch.float64)
    free = torch.cat([torch.zeros(2, 1, 1, dtype=torch.float64), vectors[:, :1, 1:]], dim=2)
    expected = merge(unit[None], free, **PLAIN)  # nothing along the base: the same as with no base
    base[0], vectors[:, 0] = 0.0, free[:, 0]
    torch.testing.assert_close(merge(base, vectors, **PLAIN)[:1], expected)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (0, 4), (4, 0), (1, 1), (5, 1), (2, 3, 1)])
@pytest.mark.parametrize("count", [1, 2, 200])
def test_every_shape_and_many_experts(shape, count):
    base = torch.ones(shape, dtype=torch.float64)
    vectors = torch.ones(count, *shape, dtype=torch.float64)
    merged = merge(base, vectors, **PLAIN)
    torch.testing.assert_close(merged, base)  # all experts are the same


def test_half_precision_stays_finite():
    base, vectors = random_case(3, 4, 9)
    experts = [{"w": (base + row).half()} for row in vectors * 1e3]
    merged = merge_lib.merge(
        "neuromerging", experts, {"w": base.half()}, compensate=False, parallel_scale=1.0
    )
    assert torch.isfinite(merged["w"]).all()
