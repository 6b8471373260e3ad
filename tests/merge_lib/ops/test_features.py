import pytest
import torch

from merge_lib.errors import MethodInputError
from merge_lib.layers import Layer
from merge_lib.ops.features import gram_factor, layer_units, weight_units
from merge_lib.ops.shares import ratio, share_of_mass


@pytest.mark.parametrize("rows", [0, 2, 5, 40])
def test_a_factor_has_the_gram_matrix_and_no_more_rows_than_inputs(rows):
    features = torch.randn(rows, 5, generator=torch.Generator().manual_seed(0))
    factor = gram_factor(features)
    assert (factor.dtype, factor.shape) == (torch.float64, (min(rows, 5), 5))
    wide = features.double()
    torch.testing.assert_close(factor.T @ factor, wide.T @ wide / max(rows, 1))


def test_units_of_packed_grouped_and_plain_weights():
    features = [torch.arange(12.0).reshape(2, 6), torch.ones(1, 6)]
    (plain,) = layer_units((4, 6), features)
    assert (plain.rows, len(plain.factors)) == (slice(0, 4), 2)
    packed = list(layer_units((6, 6), features, parts=3))
    assert [unit.rows for unit in packed] == [slice(0, 2), slice(2, 4), slice(4, 6)]
    assert all(unit.factors[0] is packed[0].factors[0] for unit in packed)
    grouped = list(layer_units((4, 3, 1), features))
    assert [unit.rows for unit in grouped] == [slice(0, 2), slice(2, 4)]
    torch.testing.assert_close(grouped[1].factors[0], features[0][:, 3:].double() / 2**0.5)


@pytest.mark.parametrize(
    ("role", "shape", "widths", "wrong"),
    [
        ("linear", (4, 3), (6, 6), r"expert 0 has the shape \(2, 6\), .* the last 3; that of expert 1 has"),
        (
            "linear",
            (4, 3),
            (3, 6),
            r"got otherwise: that of expert 1 has the shape \(2, 6\), expected 2 axes",
        ),
        (
            "convolution",
            (4, 3, 1),
            (3, 6),
            r"they are 3 and 6 wide, expected the same of all experts\. Collect",
        ),
        ("convolution", (5, 3, 1), (6, 6), r"expert 0 has the shape \(2, 6\)"),  # five outputs of two groups
        ("convolution", (4, 3, 1), (0, 0), r"expert 0 has the shape \(2, 0\)"),
    ],
)
def test_features_of_other_widths_are_refused(role, shape, widths, wrong):
    features = [torch.ones(2, width) for width in widths]
    with pytest.raises(MethodInputError, match=wrong):
        weight_units(Layer("w", shape, role), features, 2)


def test_shares_of_nothing_are_zero():
    whole = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert share_of_mass(torch.tensor([[3.0, 0.0], [0.0, 0.0]]), whole).tolist() == [9 / 25, 0.0]
    assert share_of_mass(torch.tensor([[3.0, 0.0], [0.0, 0.0]]), whole, power=1).tolist() == [3 / 7, 0.0]
    assert ratio(torch.zeros(2), torch.tensor([0.0, 2.0])).tolist() == [0.0, 0.0]
    assert share_of_mass(torch.zeros(2), torch.ones(2)).tolist() == [0.0, 0.0]
