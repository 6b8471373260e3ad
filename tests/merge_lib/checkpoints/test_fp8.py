"""8-bit weights with their scales."""

import json

import pytest
import torch
from safetensors.torch import save_file

import merge_lib
from merge_lib.checkpoints import checkpoint_digest, open_checkpoint, read_state_dict
from merge_lib.errors import CheckpointError

E4M3 = torch.float8_e4m3fn


def ones(*shape, dtype=E4M3):
    return torch.ones(shape).to(dtype)


def write_model(folder, tensors, config=None):
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("dtype", [E4M3, torch.float8_e5m2])
def test_blocks_of_the_configuration(dtype, tmp_path):
    weight = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.5, 0.0], [4.0, 8.0, 16.0]]).to(dtype)
    factors = torch.tensor([[10.0, 100.0], [0.5, 3.0]])
    config = {"quantization_config": {"weight_block_size": [2, 2]}, "dtype": "float16"}
    model = write_model(tmp_path / "m", {"x.weight": weight, "x.weight_scale_inv": factors}, config)
    with open_checkpoint(model) as reader:
        assert reader.names == ("x.weight",)
        assert (reader.dtype("x.weight"), reader.shape("x.weight")) == (torch.float16, (3, 3))
        assert reader.location("x.weight") is None
        shown = reader.tensor("x.weight")
        with pytest.raises(CheckpointError, match=r"has no tensor 'x\.weight_scale_inv'.*known: x\.weight"):
            reader.tensor("x.weight_scale_inv")
    assert shown.dtype == torch.float32
    assert shown.tolist() == [[10.0, 20.0, 300.0], [-10.0, 5.0, 0.0], [2.0, 4.0, 48.0]]
    assert read_state_dict(model)["x.weight"].dtype == torch.float16


def test_without_a_configuration_blocks_are_128_wide_and_the_result_is_bfloat16(tmp_path):
    factors = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    model = write_model(tmp_path / "m", {"w": ones(130, 200), "w_scale_inv": factors})
    with open_checkpoint(model) as reader:
        shown = reader.tensor("w")
        assert reader.dtype("w") == torch.bfloat16
    corners = [shown[0, 0], shown[127, 128], shown[128, 127], shown[129, 199]]
    assert [corner.item() for corner in corners] == [1.0, 2.0, 3.0, 4.0]
    assert shown.sum().item() == 128 * 128 * 1 + 128 * 72 * 2 + 2 * 128 * 3 + 2 * 72 * 4


@pytest.mark.parametrize(
    "factors", [torch.tensor(2.0), torch.tensor([2.0]), torch.full((3, 1), 2.0), torch.full((3,), 2.0)]
)
def test_one_scale_for_all_or_for_each_row(factors, tmp_path):
    save_file({"w": ones(3, 5), "w_scale": factors}, tmp_path / "m.safetensors")
    assert torch.equal(read_state_dict(tmp_path / "m.safetensors")["w"], torch.full((3, 5), 2.0).bfloat16())


def test_experts_in_one_tensor_have_scales_of_their_own(tmp_path):
    factors = torch.tensor([[[1.0]], [[2.0]]])
    model = write_model(tmp_path / "m", {"w": ones(2, 4, 4), "w_scale_inv": factors})
    with open_checkpoint(model) as reader:
        assert reader.tensor("w").sum(dim=(1, 2)).tolist() == [16.0, 32.0]


def test_without_scales_it_is_a_plain_number(tmp_path):
    save_file({"w": torch.tensor([1.5]).to(E4M3), "bias_scale": torch.ones(1)}, tmp_path / "m")
    with open_checkpoint(tmp_path / "m") as reader:
        assert reader.names == ("bias_scale", "w")
        assert reader.tensor("w").to(torch.float32).item() == 1.5
        assert reader.location("w").dtype == "F8_E4M3"


def test_all_scales_that_do_not_fit_are_told(tmp_path):
    tensors = {"a": ones(3, 5), "a_scale": torch.ones(2, 2), "b": ones(7), "b_scale": torch.ones(3)}
    save_file(tensors, tmp_path / "m")
    with pytest.raises(
        CheckpointError, match=r"(?s)Scale 'a_scale' .*Scale 'b_scale' .*`quantization_config"
    ):
        open_checkpoint(tmp_path / "m")


def test_scaled_weights_merge_in_float32(tmp_path):
    one = write_model(tmp_path / "1", {"w": ones(2, 2), "w_scale_inv": torch.tensor([[0.3]])})
    two = write_model(tmp_path / "2", {"w": ones(2, 2), "w_scale_inv": torch.tensor([[0.1]])})
    spec = merge_lib.MergeSpec(method="average", experts=(one, two), dtype="float32")
    out = merge_lib.merge_checkpoints(spec, tmp_path / "out").path
    assert torch.equal(read_state_dict(out)["w"], (torch.full((2, 2), 0.3) + 0.1) / 2)
    with open_checkpoint(out) as reader:
        assert reader.lineage["experts"] == [checkpoint_digest(one), checkpoint_digest(two)]
        assert reader.lineage["dtype"] == "float32"
