"""Grey models are what they were before colour was thought of."""

import hashlib
import json

import pytest
import torch

from merge_lib.workloads import parse
from merge_lib.workloads.vision.config import ViTConfig
from merge_lib.workloads.vision.lessons import shifted
from merge_lib.workloads.vision.model import initial_model


def tiny(channels):
    config = ViTConfig(width=8, depth=1, heads=2, channels=channels)
    return initial_model(config, classes=3, generator=torch.Generator().manual_seed(0))


def test_grey_is_not_written_down():
    config = parse({"name": "vision", "scenario": "class-incremental"})
    assert config.parameters_of("evaluate") == {
        "name": "vision",
        "scenario": "class-incremental",
        "model": {"image_size": 8, "patch_size": 4, "width": 64, "depth": 4, "heads": 4, "mlp_ratio": 2},
    }
    colour = parse({"name": "vision", "scenario": "class-incremental", "model": {"channels": 3}})
    assert colour.parameters_of("evaluate")["model"]["channels"] == 3
    for one in (config, colour):
        assert parse(json.loads(json.dumps(one.model_dump(mode="json")))) == one


def test_names_are_the_same_and_only_the_projection_is_wider():
    grey, colour = tiny(1).state_dict(), tiny(3).state_dict()
    assert list(grey) == list(colour)
    assert grey["embeddings.projection.weight"].shape == (8, 16)
    assert colour["embeddings.projection.weight"].shape == (8, 48)


def test_grey_in_three_channels_is_grey():
    grey, colour = tiny(1), tiny(3)
    state = grey.state_dict()
    state["embeddings.projection.weight"] = state["embeddings.projection.weight"].repeat(1, 3) / 3
    colour.load_state_dict(state)
    images = torch.randn(5, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(colour(torch.stack([images] * 3, dim=1)), grey(images), atol=1e-6)


def test_every_channel_of_a_pixel_counts():
    model = tiny(3)
    images = torch.zeros(1, 3, 8, 8)
    before = model(images)
    for channel in range(3):
        changed = images.clone()
        changed[0, channel, 5, 2] = 1.0
        assert not torch.equal(model(changed), before)


@pytest.mark.parametrize("most", [0, 2])
def test_channels_move_together(most):
    images = torch.randn(6, 8, 8, generator=torch.Generator().manual_seed(0))
    grey = shifted(images, most, torch.Generator().manual_seed(1))
    colour = shifted(torch.stack([images] * 3, dim=1), most, torch.Generator().manual_seed(1))
    assert torch.equal(colour, torch.stack([grey] * 3, dim=1))


def test_initial_values_are_the_published_ones():
    values = b"".join(tensor.numpy().tobytes() for tensor in tiny(1).state_dict().values())
    assert hashlib.sha256(values).hexdigest()[:16] == "f833143f29864a22"
