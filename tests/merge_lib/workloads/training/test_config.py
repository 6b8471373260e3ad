"""What a study may say of a training."""

import pytest
from pydantic import ValidationError

from merge_lib.workloads import parse
from merge_lib.workloads.training.config import TrainingConfig
from merge_lib.workloads.vision.config import FineTuningConfig


@pytest.mark.parametrize("given", [{}, {"epochs": 2, "steps": 5}])
def test_one_length_is_needed(given):
    with pytest.raises(ValidationError, match=r"epochs .* and steps .*give one of them"):
        TrainingConfig(learning_rate=1e-3, **given)


def test_steps_take_back_the_default_of_epochs():
    config = FineTuningConfig(steps=7)
    assert (config.epochs, config.steps) == (None, 7)
    assert FineTuningConfig.model_validate(config.model_dump(mode="json")) == config
    assert FineTuningConfig().epochs == 10


def test_saves_on_the_way_change_no_key():
    settings = {"name": "vision", "scenario": "class-incremental"}
    plain = parse(settings)
    saving = parse({**settings, "fine_tuning": {"save_every": 5}, "pretraining": {"save_every": 9}})
    other = parse({**settings, "fine_tuning": {"precision": "bf16"}})
    for work in ("pretrain", "train", "evaluate"):
        assert saving.parameters_of(work) == plain.parameters_of(work)
    assert other.parameters_of("train") != plain.parameters_of("train")
    assert other.parameters_of("pretrain") == plain.parameters_of("pretrain")
