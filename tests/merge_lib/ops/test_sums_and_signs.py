import math

import torch

from merge_lib.ops.signs import disjoint_mean, elect_signs
from merge_lib.ops.sums import inner_product, sum_rows


def test_rows_are_added_in_order():
    rows = torch.tensor([[1e8], [1.0], [-1e8]])
    assert sum_rows(rows).item() == 0.0  # (1e8 + 1) − 1e8 in float32
    assert sum_rows(rows[[0, 2, 1]]).item() == 1.0


def test_inner_product_is_summed_in_float64():
    left = torch.full((3_000_000,), 0.1)
    exact = math.fsum([float(torch.tensor(0.1)) ** 2] * 1000) * 3000
    assert abs(inner_product(left, left) / exact - 1) < 1e-13


def test_signs_and_mean_of_those_that_agree():
    vectors = torch.tensor([[1.0, -2.0, 0.0, 2.0], [3.0, 1.0, 0.0, -2.0], [-1.0, -4.0, 0.0, 0.0]])
    signs = elect_signs(vectors)
    assert signs.tolist() == [1.0, -1.0, 1.0, 1.0]
    assert disjoint_mean(vectors, signs).tolist() == [2.0, -3.0, 0.0, 2.0]
