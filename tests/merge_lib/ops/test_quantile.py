import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge_lib.ops.quantile import (
    begin_thresholds,
    close_thresholds,
    fold_thresholds,
    kept_count,
    tensor_threshold,
)

CUT_VALUES = {
    "values": st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40),
    "cut": st.integers(0, 40),
    "dtype": st.sampled_from([torch.float32, torch.float64]),
}


def stream(tensors, share, dtype, *, signed=False):
    state = begin_thresholds(tensors[0].shape[0], dtype, share=share, signed=signed)
    passes = 0
    while not state.complete:
        for tensor in tensors:
            state = fold_thresholds(state, tensor)
        state = close_thresholds(state)
        passes += 1
    return state, passes


@given(**CUT_VALUES, share=st.floats(0.01, 1))
def test_it_is_the_sorted_list_s_entry(values, share, cut, dtype):
    whole = torch.tensor([values], dtype=dtype)
    state, passes = stream([whole[:, :cut], whole[:, cut:]], share, dtype)
    kept = kept_count(len(values), share)
    if share == 1:
        assert (state.values.item(), passes) == (-1.0, 0)
    else:
        assert passes == dtype.itemsize // 2
        assert state.values.item() == sorted(whole[0].abs().tolist(), reverse=True)[kept - 1]
        assert state.values.item() == tensor_threshold(whole[0], share)


@given(**CUT_VALUES, share=st.floats(0.01, 0.99))
def test_signed_values_are_ordered_as_they_are(values, share, cut, dtype):
    whole = torch.tensor([values], dtype=dtype)
    state, _ = stream([whole[:, :cut], whole[:, cut:]], share, dtype, signed=True)
    kept = kept_count(len(values), share)
    assert state.values.item() == sorted(whole[0].tolist(), reverse=True)[kept - 1]


def test_a_share_of_everything_is_below_all():
    state, passes = stream([torch.tensor([[-3.0]])], 1, torch.float32, signed=True)
    assert (state.values.item(), passes) == (-float("inf"), 0)


def test_each_expert_has_its_own_threshold():
    state, _ = stream(
        [torch.tensor([[1.0, 2.0], [9.0, 8.0]]), torch.tensor([[3.0, 4.0], [7.0, 0.0]])], 0.5, torch.float32
    )
    assert state.values.tolist() == [3.0, 8.0]


def test_a_model_without_floating_entries_keeps_everything_of_nothing():
    state, _ = stream([torch.empty(2, 0)], 0.2, torch.float32)
    assert state.complete
    assert tensor_threshold(torch.empty(0), 0.2) == -1.0


@pytest.mark.parametrize(
    ("total", "share", "kept"), [(10, 0.2, 2), (5, 0.5, 3), (4, 0.01, 1), (100, 0.29, 29), (3, 1.0, 3)]
)
def test_the_number_kept_is_the_nearest_and_at_least_one(total, share, kept):
    assert kept_count(total, share) == kept
