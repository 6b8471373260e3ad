import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge_lib.recurrent.fusion import CellCounts, cell_weights, count_cells, joined, soft_weights
from merge_lib.recurrent.recurrence import PRESETS, Cells

INNER = {"a": torch.tensor([True, True]), "b": torch.tensor([[False], [False]])}
OUTER = {"a": torch.tensor([True, False]), "b": torch.tensor([[True], [False]])}
FLOATS = st.floats(-1e3, 1e3)


def states(inner, outer, anchor=0.0):
    """Parameters before, between and after, with the same change everywhere."""
    like = {name: torch.ones_like(mask, dtype=torch.float64) for name, mask in INNER.items()}
    return (
        {name: anchor * one for name, one in like.items()},
        {name: (anchor + inner) * one for name, one in like.items()},
        {name: (anchor + inner + outer) * one for name, one in like.items()},
    )


@pytest.mark.parametrize(
    ("preset", "expected"), [("code", [6.4, 1.0, 10.0, 5.5]), ("paper", [11.0, 1.0, 10.0, 0.0])]
)
def test_the_four_cells_by_hand(preset, expected):
    weights = cell_weights(INNER, OUTER, PRESETS[preset])
    fused = joined(*states(1.0, 10.0), weights)
    assert [*fused["a"].tolist(), *fused["b"].reshape(-1).tolist()] == pytest.approx(expected)
    assert fused["b"].shape == (2, 1)


def test_how_many_are_of_each_kind():
    assert count_cells(INNER, OUTER) == CellCounts(1, 1, 1, 1)
    none = {"a": torch.zeros(5, dtype=torch.bool), "empty": torch.zeros(0, dtype=torch.bool)}
    assert count_cells(none, none) == CellCounts(0, 0, 0, 5)


def test_without_any_mask_the_code_halves_and_the_paper_freezes():
    none = {name: torch.zeros_like(mask) for name, mask in INNER.items()}
    halved = joined(*states(1.0, 10.0, anchor=2.0), cell_weights(none, none, PRESETS["code"]))
    frozen = joined(*states(1.0, 10.0, anchor=2.0), cell_weights(none, none, PRESETS["paper"]))
    assert halved["a"].tolist() == [7.5, 7.5]
    assert frozen["a"].tolist() == [2.0, 2.0]


@given(anchor=FLOATS, inner=FLOATS, outer=FLOATS)
def test_weights_of_one_are_plain_alternating_training(anchor, inner, outer):
    ones = Cells((1.0, 1.0), (1.0, 1.0), (1.0, 1.0), (1.0, 1.0))
    before, between, after = states(inner, outer, anchor)
    fused = joined(before, between, after, cell_weights(INNER, OUTER, ones))
    torch.testing.assert_close(fused["a"], after["a"], rtol=1e-12, atol=1e-9)


@given(inner=FLOATS, outer=FLOATS)
def test_the_codes_fusion_is_a_convex_mix_of_the_two_changes(inner, outer):
    weights = cell_weights(INNER, OUTER, PRESETS["code"])
    for name in INNER:
        assert torch.equal(weights.inner[name] + weights.outer[name], torch.ones_like(weights.inner[name]))
    fused = joined(*states(inner, outer), weights)
    low, high = sorted((inner, outer))
    for tensor in fused.values():
        assert (tensor >= low - 1e-9).all()
        assert (tensor <= high + 1e-9).all()


def test_soft_weights_by_hand():
    # the inner learner's scores become 0, 1, ½; the outer learner's 1, 0, 0
    inner = {
        "a": torch.tensor([1.0, 3.0], dtype=torch.float64),
        "b": torch.tensor([2.0], dtype=torch.float64),
    }
    outer = {
        "a": torch.tensor([4.0, 0.0], dtype=torch.float64),
        "b": torch.tensor([0.0], dtype=torch.float64),
    }
    weights = soft_weights(inner, outer)
    expected = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.5, 0.0]], dtype=torch.float64).softmax(dim=1)[:, 0]
    found = torch.cat([weights.inner["a"], weights.inner["b"]])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(weights.outer["b"], 1 - weights.inner["b"])
    sharp = soft_weights(inner, outer, temperature=0.01)
    torch.testing.assert_close(sharp.inner["a"], torch.tensor([0.0, 1.0], dtype=torch.float64))


def test_soft_weights_of_equal_scores_are_halves():
    weights = soft_weights({"a": torch.full((2,), 5.0)}, {"a": torch.zeros(2)})
    assert weights.inner["a"].tolist() == [0.5, 0.5]


def test_soft_weights_of_no_entries_are_empty():
    weights = soft_weights({"a": torch.empty(0, 2)}, {"a": torch.empty(0, 2)})
    assert weights.inner["a"].shape == weights.outer["a"].shape == (0, 2)
