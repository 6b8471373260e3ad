"""The latest expert, moved back towards the base."""

import torch

from merge_lib import merge


def test_the_last_expert_is_moved_back_and_the_others_do_not_count():
    base = {"weight": torch.tensor([1.0, 2.0, -4.0])}
    experts = [{"weight": torch.tensor([9.0, 9.0, 9.0])}, {"weight": torch.tensor([3.0, 2.0, 0.0])}]
    merged = merge("wise_ft", experts, base, position=0.25)
    assert merged["weight"].tolist() == [1.5, 2.0, -3.0]
    assert merge("wise_ft", experts, base, position=0.0)["weight"].tolist() == [1.0, 2.0, -4.0]
    assert merge("wise_ft", experts, base, position=1.0)["weight"].tolist() == [3.0, 2.0, 0.0]
