"""Settings of the CLIP workload, and what finished work is known by."""

import pytest
from pydantic import ValidationError

from merge_lib.errors import CheckpointError, SpecError
from merge_lib.workloads import ClipConfig


def parsed(**settings):
    return ClipConfig(**{"name": "clip", "model": "data/models/tiny"} | settings)


def test_a_model_of_a_data_stage_is_a_snapshot():
    config = parsed(zero_shot=["birds"])
    assert config.pretraining_snapshots() == ("tiny",)
    assert config.task_snapshots(["pets"]) == ("pets", "tiny")
    assert config.probe_snapshots() == ("birds",)
    assert parsed(model="openai/clip-vit-base-patch16").task_snapshots(["pets"]) == ("pets",)


def test_probes_and_batches_do_not_change_what_is_trained():
    one, other = parsed(zero_shot=["birds"], evaluation_batch=8), parsed()
    assert one.parameters_of("train") == other.parameters_of("train")
    assert one.parameters_of("pretrain") == other.parameters_of("pretrain")
    assert one.parameters_of("evaluate") != other.parameters_of("evaluate")
    half = parsed(evaluation_precision="bf16")
    assert half.parameters_of("train") == other.parameters_of("train")
    assert half.parameters_of("evaluate") == other.parameters_of("evaluate") | {
        "evaluation_precision": "bf16"
    }
    assert "evaluation_precision" not in other.model_dump()


def test_other_models_are_known_by_their_digest(root):
    folder = str(root / "data" / "models" / "tiny")
    settled = parsed(model=folder).settled(root)
    assert settled.digest.startswith("sha256:")
    assert settled.parameters_of("evaluate")["digest"] == settled.digest
    assert parsed(model=folder, digest=settled.digest).settled(root) == settled
    with pytest.raises(SpecError, match="but the study expects sha256:0"):
        parsed(model=folder, digest="sha256:0").settled(root)
    with pytest.raises(CheckpointError, match="neither a folder"):
        parsed(model="/nowhere/at/all").settled(root)
    assert parsed().settled(root) == parsed()


def test_the_projects_folder_is_found_from_the_data(root):
    assert parsed().root_of(root / "data") == root
    assert parsed(data="some/data").root_of(root / "some" / "data") == root


def test_templates_have_one_place_for_the_class():
    with pytest.raises(ValidationError, match="String should match pattern"):
        parsed(templates=["a photo"])
    with pytest.raises(ValidationError, match="names a data set twice"):
        parsed(zero_shot=["birds", "birds"])
