import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge_lib.mergekit.methods import towards
from merge_lib.methods.model_stock import model_stock
from merge_lib.trail import TakenTrail


def merge(*vectors, **params):
    return model_stock(torch.tensor(vectors, dtype=torch.float64), **params)


def share(*vectors, **params):
    """The t of task vectors."""
    rows = torch.tensor(vectors, dtype=torch.float64)
    return (merge(*vectors, **params).norm() / rows.mean(0).norm()).item()


def test_the_share_by_hand():
    half = [0.5, math.sqrt(0.75)]
    assert share([1.0, 0.0], half) == pytest.approx(2 / 3)  # t(2, ½)
    three = [[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]
    assert share(*three) == pytest.approx(3 / 4)  # t(3, ½)
    assert merge([1.0, 0.0], [0.0, 1.0]).tolist() == [0.0, 0.0]  # t(·, 0) = 0
    assert merge([1.0, 2.0], [3.0, 6.0]).tolist() == pytest.approx([2.0, 4.0])  # t(·, 1) = 1


def test_wide_angles_give_the_base():
    assert merge([1.0, 0.0], [-0.5, math.sqrt(0.75)]).tolist() == [0.0, 0.0]  # the formula's t would be −2
    assert merge([1.0, 2.0], [-1.0, -2.0]).tolist() == [0.0, 0.0]


def test_one_expert_zero_vectors_and_many():
    assert merge([1.0, -2.0]).tolist() == [1.0, -2.0]
    assert merge([0.0, 0.0], [0.0, 0.0]).tolist() == [0.0, 0.0]
    assert merge([0.0, 0.0], [2.0, 0.0]).tolist() == [0.0, 0.0]
    assert merge(*[[0.5, -1.0]] * 200).tolist() == pytest.approx([0.5, -1.0])
    assert merge(2.0, 4.0).tolist() == pytest.approx(3.0)
    assert merge([[], []], [[], []], rows=True).shape == (2, 0)


def test_rows_have_an_angle_each():
    one, two = [[1.0, 0.0], [1.0, 1.0]], [[0.0, 1.0], [3.0, 3.0]]
    assert merge(one, two, rows=True).flatten().tolist() == pytest.approx([0, 0, 2, 2])
    # a vector is one row
    assert merge([1.0, 0.0], [1.0, 1.0], rows=True).tolist() == merge([1.0, 0.0], [1.0, 1.0]).tolist()


def test_the_mean_angle_is_not_the_mean_cosine():
    # cosines 1, 0, 0: the mean is ⅓; the mean angle 60°, whose cosine is ½
    vectors = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    assert share(*vectors) == pytest.approx(3 / 5)
    assert share(*vectors, average="angle") == pytest.approx(3 / 4)


def test_long_tensors_are_added_in_pieces():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.rand(3, 70_001, generator=generator, dtype=torch.float64)
    assert torch.allclose(
        model_stock(vectors), towards.model_stock(vectors, 0 * vectors[0], filter_wise=False)
    )


def test_rows_are_mergekit_s_where_angles_are_sharp():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.rand(3, 6, 5, generator=generator, dtype=torch.float64)
    expected = towards.model_stock(vectors, 0 * vectors[0], filter_wise=True)
    assert torch.allclose(model_stock(vectors, rows=True), expected)


@given(
    values=st.lists(st.lists(st.integers(-4, 4), min_size=3, max_size=3), min_size=2, max_size=5),
    factor=st.sampled_from([0.5, 2.0]),
)
def test_it_is_the_loop_of_its_formula(values, factor):
    def length(row):
        return math.sqrt(sum(x * x for x in row))

    cosines = [
        sum(x * y for x, y in zip(a, b, strict=True)) / (length(a) * length(b)) if any(a) and any(b) else 0
        for a, b in combinations(values, 2)
    ]
    n, c = len(values), min(max(sum(cosines) / len(cosines), 0), 1)
    t = n * c / (1 + (n - 1) * c)
    expected = [t * sum(column) / n for column in zip(*values, strict=True)]
    assert merge(*[[float(x) for x in row] for row in values]).tolist() == pytest.approx(expected)
    scaled = merge(*[[x * factor for x in row] for row in values])
    assert scaled.tolist() == pytest.approx([x * factor for x in expected])


def test_what_it_notes():
    trail = TakenTrail()
    model_stock(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), trail=trail)
    assert trail.notes == {"cosine": [1.0], "share of the mean": [1.0]}
