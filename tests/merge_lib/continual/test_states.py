"""A continual method is resumed from its state alone."""

import dataclasses

import pytest
import torch

from merge_lib import registry


@pytest.mark.parametrize("name", [info.name for info in registry.methods() if info.kind == "continual"])
def test_a_sequence_goes_on_from_its_state(name):
    info = registry.get(name)
    functions, params = info.implementation, info.check_params({})
    rows = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    state = functions.init(torch.zeros(8))
    for row in rows[:3]:
        _, state = functions.step(state, row, **params)
    saved = dataclasses.asdict(state)
    resumed = type(state)(**saved)
    for row in rows[3:]:
        merged, state = functions.step(state, row, **params)
        again, resumed = functions.step(resumed, row, **params)
        assert torch.equal(merged, again)


@pytest.mark.parametrize("name", [info.name for info in registry.methods() if info.kind == "continual"])
def test_a_state_is_frozen_and_steps_do_not_write_to_it(name):
    info = registry.get(name)
    functions, params = info.implementation, info.check_params({})
    _, state = functions.step(functions.init(None), torch.tensor([1.0, -2.0]), **params)
    before = {key: torch.as_tensor(value).clone() for key, value in vars(state).items()}
    functions.step(state, torch.tensor([5.0, 5.0]), **params)
    assert all(torch.equal(torch.as_tensor(vars(state)[key]), value) for key, value in before.items())
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign"):
        setattr(state, next(iter(vars(state))), None)
