"""Sizes of models from their configurations."""

from pathlib import Path

import pytest
import torch

from merge_lib.errors import CheckpointError
from merge_lib.workloads.pretrained.config import LoraConfig, TuningConfig
from merge_lib.workloads.pretrained.loading import load_model
from merge_lib.workloads.pretrained.shapes import Tower, shape_of
from merge_lib.workloads.pretrained.tuning import prepare, trained_parameters


@pytest.mark.parametrize("kind", ["clip", "llama", "tied llama"])
def test_a_configuration_tells_what_the_weights_hold(located, model_class, targets):
    lora = LoraConfig(rank=2, targets=targets)
    shape = shape_of(located.folder / "config.json", lora)
    model = load_model(located, model_class)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    tuning = TuningConfig(kind="lora", lora=lora)
    trained = trained_parameters(prepare(model, tuning, seed=0), tuning)
    assert shape.adapted == sum(parameter.numel() for parameter in trained.values())


@pytest.mark.parametrize("kind", ["llama"])
def test_a_tower_counts_what_every_token_meets(located, model_class):
    from torch.utils.flop_counter import FlopCounterMode

    tower = shape_of(located.folder / "config.json").towers["decoder"]
    model = load_model(located, model_class)
    model.set_attn_implementation("eager")
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(torch.arange(8)[None])
    assert tower.forward(8) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_the_shapes_of_the_reproductions_are_the_models_own():
    places = Path(__file__).parents[4] / "studies" / "reproduce" / "shapes"
    known = {path.stem: shape_of(path).parameters for path in places.iterdir()}
    assert known == {
        "clip-vit-base-patch16": 149_620_737,
        "t5-v1_1-large": 783_150_080,
        "Llama-2-7b-hf": 6_738_415_616,
    }


def test_operations_of_a_tower():
    assert Tower(parameters=10, layers=2, width=4).forward(3) == 2 * 10 * 3 + 4 * 2 * 4 * 9


def test_another_kind_of_configuration_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["ViTModel"], "model_type": "vit"}')
    with pytest.raises(CheckpointError, match=r"is of a 'vit', whose cost is not known here"):
        shape_of(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is not that of a model of transformers"):
        shape_of(tmp_path / "config.json")
