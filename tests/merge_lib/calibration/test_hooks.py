"""Rows of single layers, at their edges."""

import pytest
import torch
from torch import nn

from merge_lib.calibration.hooks import listening, observable
from merge_lib.calibration.sums import begin_sum


def rows_of(module, inputs, **options):
    found = []
    with (
        listening(module, observable(module), lambda _, rows: found.append(rows), **options),
        torch.no_grad(),
    ):
        return found, module(inputs)


@pytest.fixture
def inputs():
    return 1e-3 * torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("eps", [None, 0.0, 1e-2])
def test_root_mean_squares_have_the_module_s_own_epsilon(eps, inputs):
    (rows,), shown = rows_of(nn.RMSNorm(4, eps=eps), inputs)
    torch.testing.assert_close(rows, shown)


def test_batches_without_running_statistics_are_normalised_by_their_own(inputs):
    module = nn.BatchNorm1d(4, track_running_stats=False).eval()
    (rows,), shown = rows_of(module, inputs)
    torch.testing.assert_close(rows, shown)


@pytest.mark.parametrize(
    "module",
    [
        nn.LayerNorm((2, 4)),  # its weight is no vector over the last axis
        nn.RMSNorm((2, 4)),
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(2, 2, 3, padding="same"),
        nn.Conv2d(2, 2, 3, groups=2),
        nn.LayerNorm(4, elementwise_affine=False),
        nn.Embedding(3, 4),
    ],
)
def test_layers_whose_rows_are_not_known_are_left_out(module):
    assert observable(module) == {}


def test_padding_is_left_out():
    is_token = torch.tensor([[True, False], [True, True]])
    tokens = torch.arange(12.0).reshape(2, 2, 3)
    (rows,), _ = rows_of(nn.Linear(3, 1), tokens, is_token=is_token)
    assert rows.tolist() == [[0, 1, 2], [6, 7, 8], [9, 10, 11]]


@pytest.mark.parametrize(("kind", "is_scale"), [("features", False), ("gram", False), ("gram", True)])
def test_no_rows_come_to_nothing(kind, is_scale):
    total = begin_sum(kind, is_scale=is_scale, rows=2)
    assert total.close() is None
    total.add(torch.empty(0, 3))
    assert total.close() is None


def test_half_precision_is_summed_wide():
    rows = torch.full((4096, 2), 3.0, dtype=torch.float16)
    products, squares = (begin_sum("gram", is_scale=is_scale, rows=None) for is_scale in (False, True))
    for total in (products, squares):
        total.add(rows)
    value, count = products.close()
    assert (value.dtype, value.tolist(), count) == (torch.float32, [[9.0, 9.0], [9.0, 9.0]], 4096)
    assert squares.close()[0].tolist() == [9.0, 9.0]


def test_the_sum_of_a_scale_is_small():
    found = observable(nn.Sequential(nn.Linear(5, 2), nn.LayerNorm(5)))
    assert {name: one.gram_bytes for name, one in found.items()} == {"0.weight": 200, "1.weight": 40}
