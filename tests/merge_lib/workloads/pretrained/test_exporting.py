"""Checkpoints of a study as folders that transformers and peft load."""

import json

import pytest
import torch
from peft import PeftModel

from merge_lib.checkpoints import checkpoint_digest, read_state_dict, write_state_dict
from merge_lib.errors import CheckpointError, CheckpointMismatchError, SpecError
from merge_lib.workloads.pretrained.adapters import fold_in
from merge_lib.workloads.pretrained.config import LoraConfig, TuningConfig
from merge_lib.workloads.pretrained.exporting import export_adapter, export_model
from merge_lib.workloads.pretrained.loading import load_model
from merge_lib.workloads.pretrained.rebuilding import model_class
from merge_lib.workloads.pretrained.tuning import prepare, state_of, trained_parameters


@pytest.fixture(params=["full", "factor", "product"])
def tuning(request, targets) -> TuningConfig:
    if request.param == "full":
        return TuningConfig()
    lora = LoraConfig(rank=2, alpha=6, targets=targets, space=request.param)
    return TuningConfig(kind="lora", lora=lora)


@pytest.fixture
def expert(located, model_class, tuning, tmp_path):
    """A model that is not as it began, and its checkpoint."""
    model = prepare(load_model(located, model_class), tuning, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in sorted(trained_parameters(model, tuning).items()):
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model, write_state_dict(
        tmp_path / "expert.safetensors", state_of(model, tuning), lineage={"kind": "train"}
    ).path


@pytest.mark.parametrize("kind", ["clip", "tied llama"])
def test_a_checkpoint_becomes_a_folder(expert, located, model_class, tuning, outputs, tmp_path):
    model, checkpoint = expert
    (located.folder / "special_tokens_map.json").write_text("{}")
    made = export_model(checkpoint, tmp_path / "out", located=located, tuning=tuning)
    assert made.form == "model"
    assert made.digest == checkpoint_digest(tmp_path / "out" / "model.safetensors")
    assert {"config.json", "special_tokens_map.json"} <= set(made.copied)
    torch.testing.assert_close(outputs(model_class.from_pretrained(made.path)), outputs(model))
    with pytest.raises(CheckpointError, match=r"out exists already\. Nothing is overwritten"):
        export_model(checkpoint, tmp_path / "out", located=located, tuning=tuning)


@pytest.mark.parametrize("kind", ["t5", "gpt2"])
def test_factors_become_an_adapter(expert, located, model_class, tuning, outputs, tmp_path):
    model, checkpoint = expert
    if tuning.lora is None or tuning.lora.space == "product":
        with pytest.raises(SpecError, match="does not hold the factors of adapters"):
            export_adapter(checkpoint, tmp_path / "out", located=located, tuning=tuning)
        return
    export_adapter(checkpoint, tmp_path / "out", located=located, tuning=tuning)
    told = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert told["fan_in_fan_out"] == (located.folder.name == "gpt2")
    loaded = PeftModel.from_pretrained(load_model(located, model_class), tmp_path / "out")
    torch.testing.assert_close(outputs(loaded), outputs(model))
    read = read_state_dict(tmp_path / "out", base=located.folder)  # by our own reader, folded in
    for name, folded in state_of(fold_in(model), TuningConfig()).items():
        torch.testing.assert_close(read[name], folded)


@pytest.mark.parametrize("kind", ["llama"])
@pytest.mark.parametrize("tuning", ["full"], indirect=True)
def test_the_dtype_that_is_asked_for_is_loaded(expert, located, model_class, tuning, tmp_path):
    _, checkpoint = expert
    made = export_model(checkpoint, tmp_path / "out", located=located, tuning=tuning, dtype="bf16")
    assert json.loads((made.path / "config.json").read_text())["dtype"] == "bfloat16"
    assert model_class.from_pretrained(made.path).dtype == torch.bfloat16
    with pytest.raises(SpecError, match="dtype 'I8' is none of F32, F16, BF16"):
        export_model(checkpoint, tmp_path / "other", located=located, tuning=tuning, dtype="I8")


@pytest.mark.parametrize("kind", ["llama"])
@pytest.mark.parametrize("tuning", ["full"], indirect=True)
def test_a_checkpoint_of_another_model_is_refused(located, tuning, tmp_path):
    checkpoint = write_state_dict(tmp_path / "x.safetensors", {"w": torch.ones(2)}, lineage={}).path
    with pytest.raises(
        CheckpointMismatchError, match=r"Checkpoint '.*x.safetensors' does not fit .*'w' is unk"
    ):
        export_model(checkpoint, tmp_path / "out", located=located, tuning=tuning)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.safetensors"]


@pytest.mark.parametrize("kind", ["llama"])
def test_a_configuration_must_name_its_class(located, tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["NoSuchModel"]}')
    with pytest.raises(CheckpointError, match=r"names \['NoSuchModel'\] under `architectures`"):
        model_class(type(located)(tmp_path, "x", None, ""))
