import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge_lib.mergekit.methods import sce as mergekit_sce
from merge_lib.methods.sce import sce
from merge_lib.trail import TakenTrail


def merge(*vectors, **params):
    return sce(torch.tensor(vectors, dtype=torch.float64), **params).tolist()


def test_by_hand():
    # variances 0, 9, 4: the two largest are selected; energies 4 + 1 = 5 and 16 + 9 = 25, weights ⅙ and ⅚
    # second: −2 and +4, the sum is plus: 4 alone; third: −1 and +3: 3 alone
    assert merge([1.0, -2.0, -1.0], [1.0, 4.0, 3.0], density=0.67) == [0.0, 4.0, 3.0]
    # both agree: 2·⅒ + 6·⁹⁄₁₀
    assert merge([2.0, 0.0], [6.0, 0.0], density=0.5) == pytest.approx([5.6, 0.0])


def test_one_expert_and_identical_ones_come_back():
    row = [0.1, -0.7, 0.3]
    assert merge(row) == row
    assert merge(row, row, row) == pytest.approx(row)
    assert merge(*[row] * 200) == pytest.approx(row)


def test_zero_and_opposite_experts():
    assert merge([0.0, 0.0], [0.0, 0.0]) == [0.0, 0.0]
    assert merge([0.0, 0.0], [2.0, 1.0], density=1) == [2.0, 1.0]
    assert merge([1.0, -2.0], [-1.0, 2.0], density=1) == [1.0, 2.0]  # cancelled sums elect plus
    assert merge(3.0, 1.0) == pytest.approx(2.8)
    assert merge([[], []], [[], []]) == [[], []]


def test_with_everything_selected_it_is_mergekit_s():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(4, 6, 5, generator=generator, dtype=torch.float64)
    expected = mergekit_sce.sce(vectors, 0 * vectors[0], select_topk=1.0)
    assert torch.allclose(sce(vectors, density=1), expected)


@given(
    values=st.lists(st.lists(st.integers(-4, 4), min_size=5, max_size=5), min_size=1, max_size=4),
    density=st.sampled_from([0.2, 0.6, 1.0]),
)
def test_it_is_the_loop_of_its_formula(values, density):
    n = len(values)
    # n² times the variance, in whole numbers, so that equal ones are equal
    varied = [n * sum(x * x for x in column) - sum(column) ** 2 for column in zip(*values, strict=True)]
    limit = sorted(varied, reverse=True)[max(1, int(density * 5 + 0.5)) - 1]
    kept = [[x if v >= limit else 0 for x, v in zip(row, varied, strict=True)] for row in values]
    energies = [sum(x * x for x in row) for row in kept]
    expected = []
    for column in zip(*kept, strict=True):
        sign = 1 if sum(column) >= 0 else -1
        agreeing = [(e, x) for e, x in zip(energies, column, strict=True) if x * sign > 0]
        whole = sum(e for e, _ in agreeing)
        expected.append(sum(e * x for e, x in agreeing) / whole if agreeing else 0.0)
    merged = merge(*[[float(x) for x in row] for row in values], density=density)
    if density == 1 or n in (1, 2, 4):  # thirds round, so that equal variances may differ there
        assert merged == pytest.approx(expected)


def test_what_it_notes():
    trail = TakenTrail()
    sce(torch.tensor([[1.0, -2.0, -1.0], [1.0, 4.0, 3.0]]), trail=trail, density=0.67)
    assert trail.notes["share kept"] == [pytest.approx(2 / 3)]
    assert trail.notes["weight"] == pytest.approx([1 / 6, 5 / 6])
    assert trail.notes["share of the other sign"] == pytest.approx([2 / 3, 0])
    assert trail.notes["energy removed"] == pytest.approx([1.0, 1 / 26])
