"""Checkpoints of which tensors must be computed: the torch route, the same bytes as `merge_checkpoints`."""

import json

import pytest
import torch

from merge_lib import MergeSpec, merge_checkpoints
from merge_lib.checkpoints import read_state_dict, write_state_dict
from merge_lib.streaming.run import merge_to


@pytest.fixture
def base(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text('{"model_type": "llama"}')
    tensors = {"model.w.weight": torch.randn(8, 6, generator=torch.Generator().manual_seed(1))}
    write_state_dict(tmp_path / "base" / "model.safetensors", tensors, lineage={})
    return tmp_path / "base"


def test_adapters_are_folded_into_the_base(base, tmp_path):
    generator = torch.Generator().manual_seed(2)
    paths = []
    for name in ("one", "two"):
        paths.append(tmp_path / name)
        paths[-1].mkdir()
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["w"], "bias": "none"}
        (paths[-1] / "adapter_config.json").write_text(json.dumps(config))
        factors = {
            "base_model.model.model.w.lora_A.weight": torch.randn(2, 6, generator=generator),
            "base_model.model.model.w.lora_B.weight": torch.randn(8, 2, generator=generator),
        }
        write_state_dict(paths[-1] / "adapter_model.safetensors", factors, lineage={})
    spec = MergeSpec(method="task_arithmetic", params={"scale": 1.0}, base=base, experts=paths)
    done = merge_to(spec, tmp_path / "out")
    assert done.arithmetic == "torch: tensors must be computed before they are merged"
    assert done.digest == merge_checkpoints(spec, tmp_path / "reference.safetensors").digest
    assert not torch.equal(*(read_state_dict(p)["model.w.weight"] for p in (base, tmp_path / "out")))


def test_the_configuration_of_8_bit_weights_says_what_the_result_is(tmp_path):
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for place, path in enumerate(paths):
        path.mkdir()
        generator = torch.Generator().manual_seed(place)
        weight = torch.randn(128, 128, generator=generator).to(torch.float8_e4m3fn)
        tensors = {"w.weight": weight, "w.weight_scale_inv": torch.full((1, 1), 0.5)}
        write_state_dict(path / "model.safetensors", tensors, lineage={})
        config = {"dtype": "bfloat16", "quantization_config": {"weight_block_size": [128, 128]}}
        (path / "config.json").write_text(json.dumps(config))
    spec = MergeSpec(method="average", base=paths[0], experts=paths[1:])
    done = merge_to(spec, tmp_path / "out")
    assert done.digest == merge_checkpoints(spec, tmp_path / "reference.safetensors").digest
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"dtype": "bfloat16"}
