"""A continual method is resumed from its state alone."""

import dataclasses

import pytest
import torch

from merge_lib import registry
from merge_lib.arithmetic import Inputs, Merge
from merge_lib.folding import Folded
from merge_lib.layers import describe_layers

NAMES = [info.name for info in registry.methods() if info.kind == "continual"]
SHAPES = {"h.0.weight": (4, 2), "h.0.bias": (3,)}


class Sequence:
    """A method fed by hand with one expert after another, the base being 0."""

    def __init__(self, name):
        info = registry.get(name)
        self.layers = describe_layers(SHAPES)
        self.merge = Merge(info, info.check_params({}), seed=0)
        self.folded = Folded.begin(self.merge)

    def fold(self, seed):
        """Another expert; the merged tensors."""
        generator = torch.Generator().manual_seed(seed)
        inputs = [
            Inputs(layer, torch.zeros(shape), (torch.randn(shape, generator=generator),), torch.float32)
            for (name, layer), shape in zip(self.layers.items(), SHAPES.values(), strict=True)
        ]
        merged = {}
        self.folded.add(inputs, lambda one, tensor: merged.update({one.layer.name: tensor}))
        return merged or {name: self.folded.read(name) for name in SHAPES}


def rebuilt(value):
    """The same state from its fields alone."""
    return type(value)(**{field.name: getattr(value, field.name) for field in dataclasses.fields(value)})


@pytest.mark.parametrize("name", NAMES)
def test_a_sequence_goes_on_from_its_state(name):
    straight, resumed = Sequence(name), Sequence(name)
    for seed in range(3):
        straight.fold(seed)
        resumed.fold(seed)
    kept = resumed.folded
    resumed.folded = Folded(
        resumed.merge,
        kept.shared and rebuilt(kept.shared),
        {name: rebuilt(state) for name, state in kept.states.items()},
    )
    for seed in range(3, 5):
        merged, again = straight.fold(seed), resumed.fold(seed)
        assert all(torch.equal(merged[key], again[key]) for key in SHAPES)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_is_frozen_and_steps_do_not_write_to_it(name):
    sequence = Sequence(name)
    sequence.fold(0)
    state = sequence.folded.states["h.0.weight"]
    before = {key: value.clone() for key, value in vars(state).items() if isinstance(value, torch.Tensor)}
    sequence.fold(1)
    assert before or not vars(state)  # WiSE-FT keeps nothing
    assert all(torch.equal(vars(state)[key], value) for key, value in before.items())
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign"):
        setattr(state, next(iter(vars(state)), "any"), None)
