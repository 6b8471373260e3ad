import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge_lib.errors import MethodInputError
from merge_lib.recurrent import global_quantile, select

FLOATS = st.floats(-1e6, 1e6, width=32)


def test_ten_scores_over_two_tensors():
    scores = {"a": torch.tensor([[10.0, 1.0], [9.0, 2.0]]), "b": torch.tensor([3.0, 8.0, 4.0, 7.0, 5.0, 6.0])}
    found = select(scores, 0.8)
    assert found.threshold == pytest.approx(8.2)
    assert found.masks["a"].tolist() == [[True, False], [True, False]]
    assert not found.masks["b"].any()
    assert found.count == 2


def test_equal_scores_select_nothing():
    assert select({"a": torch.zeros(5), "b": torch.zeros(2, 2)}).count == 0
    assert select({"a": torch.full((7,), 0.3)}).count == 0
    assert select({"only": torch.tensor(4.0)}).count == 0


def test_the_threshold_spans_the_model_not_the_tensor():
    found = select({"small": torch.arange(8.0), "large": torch.arange(8.0) + 100.0}, 0.5)
    assert not found.masks["small"].any()
    assert found.masks["large"].all()


@given(
    sizes=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    quantile=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.8, 0.95, 1.0]),
    data=st.data(),
)
def test_the_quantile_is_that_of_torch(sizes, quantile, data):
    if sum(sizes) == 0:
        sizes = [*sizes, 1]
    scores = {
        str(place): torch.tensor(
            data.draw(st.lists(FLOATS, min_size=size, max_size=size)), dtype=torch.float64
        )
        for place, size in enumerate(sizes)
    }
    whole = torch.cat(list(scores.values()))
    expected = torch.quantile(whole, quantile).item()
    assert global_quantile(scores, quantile) == pytest.approx(expected, rel=1e-12, abs=1e-9)


@given(values=st.lists(FLOATS, min_size=1, max_size=40), quantile=st.sampled_from([0.2, 0.5, 0.8]))
def test_at_most_the_share_above_the_quantile_is_selected(values, quantile):
    found = select({"a": torch.tensor(values)}, quantile)
    assert found.count <= math.ceil((1 - quantile) * len(values) - 1e-9)
    assert found.count == sum(value > found.threshold for value in torch.tensor(values).tolist())


def test_neighbouring_float32_scores_are_told_apart():
    low = torch.tensor(1.0)
    high = torch.nextafter(low, torch.tensor(2.0))
    found = select({"a": torch.stack([low, high, high])}, 0.3)  # between the two, nearer to the upper
    assert found.masks["a"].tolist() == [False, True, True]


def test_more_entries_than_torch_takes():
    # torch.quantile refuses more than 2^24
    flags = torch.zeros(2**24 + 8, dtype=torch.float32)
    flags[-4:] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    with pytest.raises(RuntimeError, match="too large"):
        torch.quantile(flags, 0.8)
    found = select({"a": flags}, 0.8)
    assert (found.threshold, found.count) == (0.0, 4)


def test_what_is_refused():
    with pytest.raises(MethodInputError, match="`scores` holds no tensor"):
        select({})
    with pytest.raises(MethodInputError, match="trainable tensors have no entry"):
        select({"a": torch.zeros(0)})
    with pytest.raises(MethodInputError, match="Scores of 'a', 'c' are not finite"):
        select({"a": torch.tensor([float("nan")]), "b": torch.ones(1), "c": torch.tensor([float("inf")])})
