import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import merge_lib
from merge_lib.errors import MethodInputError
from merge_lib.methods.della import della
from merge_lib.ops.chance import TensorGenerator
from merge_lib.ops.sparsify import keep_probabilities, magnitude_ranks
from merge_lib.trail import TakenTrail


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_probabilities_grow_with_the_rank():
    found = keep_probabilities(rows([3, -1, 0.5, -2]), 0.7, 0.07)
    assert found[0].tolist() == pytest.approx([0.77, 0.7 - 0.07 / 3, 0.63, 0.7 + 0.07 / 3])


def test_of_equal_magnitudes_the_first_counts_as_smaller():
    assert keep_probabilities(rows([1, -1, 1]), 0.5, 0.25).tolist() == [[0.25, 0.5, 0.75]]


@given(
    values=st.lists(
        st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 0.5, -0.5, 3e38, 7.0]), min_size=0, max_size=9
    ),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_ranks_are_those_of_a_stable_sort(values, dtype):
    row = torch.tensor([values], dtype=dtype)
    order = sorted(range(len(values)), key=lambda place: abs(row[0, place].item()))
    ranks = magnitude_ranks(row)[0].tolist()
    assert [ranks[place] for place in order] == list(range(len(values)))


def test_a_row_of_one_and_of_none():
    assert keep_probabilities(rows([4]), 0.7, 0.07).tolist() == [[0.7]]
    assert keep_probabilities(torch.zeros(2, 0), 0.7, 0.07).shape == (2, 0)


def test_every_entry_is_divided_by_its_own_probability():
    vectors = rows([4, 3, 2, 1], [1, 2, 3, 4])
    merged = della(vectors[None], generator=TensorGenerator(3, "w"), density=0.5, window=0.6, scale=1)
    q = [[0.8, 0.6, 0.4, 0.2], [0.2, 0.4, 0.6, 0.8]]
    for row, probabilities, got in zip(vectors.tolist(), q, merged.tolist(), strict=True):
        for value, probability, one in zip(row, probabilities, got, strict=True):
            assert one == 0 or one == pytest.approx(value / probability)
    assert 0 < (merged != 0).sum() < 8


def test_it_is_unbiased_for_one_expert():
    generator = torch.Generator().manual_seed(0)
    vector = torch.rand(400, 50, generator=generator, dtype=torch.float64) + 0.5
    merged = della(vector[None], generator=TensorGenerator(0, "w"), density=0.5, window=0.4, scale=1)
    assert merged.mean() == pytest.approx(vector.mean().item(), abs=0.05)  # standard error about 0.01


def test_a_kernel_s_row_is_what_makes_one_channel():
    vector = torch.arange(1.0, 17.0).reshape(1, 2, 2, 2, 2).double()
    flat = vector.reshape(1, 2, 8)
    chance = {"generator": TensorGenerator(0, "w"), "density": 0.5, "window": 0.8}
    assert torch.equal(della(vector, **chance).reshape(2, 8), della(flat, **chance))


def test_rows_may_be_merged_one_by_one():
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(3, 5, 7, generator=generator)
    whole = della(vectors, generator=TensorGenerator(2, "w"))
    pieces = [
        della(vectors[:, start:stop], generator=TensorGenerator(2, "w", offset=start * 7))
        for start, stop in ((0, 1), (1, 4), (4, 5))
    ]
    assert torch.equal(torch.cat(pieces), whole)


@pytest.mark.parametrize(("density", "window"), [(0.05, 0.14), (0.95, 0.14), (0.07, 0.14)])
def test_probabilities_that_are_none(density, window):
    expert = {"w": torch.ones(3)}
    with pytest.raises(MethodInputError, match=r"`density` is .* and `window` is 0\.14.*must be in \(0, 1\]"):
        merge_lib.merge("della", [expert], expert, density=density, window=window)


@given(
    values=st.lists(st.lists(st.floats(-4, 4), min_size=6, max_size=6), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_it_is_the_loop_of_its_formula(values, seed):
    generator = TensorGenerator(seed, "w")
    thinned = []
    for expert, row in enumerate(values):
        order = sorted(range(6), key=lambda j: abs(row[j]))  # stable
        draws = generator.bits(expert, 6)
        kept = {j: 0.6 - 0.3 + 0.6 * place / 5 for place, j in enumerate(order)}
        thinned.append([row[j] / kept[j] if draws[j] < kept[j] * 2**32 else 0.0 for j in range(6)])
    expected = []
    for column in zip(*thinned, strict=True):
        sign = 1 if sum(column) >= 0 else -1
        agreeing = [x for x in column if x * sign > 0]
        expected.append(1.1 * sum(agreeing) / len(agreeing) if agreeing else 0.0)
    merged = della(rows(*values), generator=generator, density=0.6, window=0.6)
    assert merged.tolist() == pytest.approx(expected)


def test_what_it_notes():
    trail = TakenTrail()
    della(torch.ones(2, 4000), generator=TensorGenerator(1, "w"), trail=trail)
    assert trail.notes["share kept"] == pytest.approx([0.7, 0.7], abs=0.03)
