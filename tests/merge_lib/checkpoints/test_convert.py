"""Pickled checkpoints to safetensors."""

import json
import os
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from flows.cli import make_app
from merge_lib.checkpoints import checkpoint_digest, open_checkpoint, read_state_dict, verify
from merge_lib.checkpoints.convert import convert
from merge_lib.errors import CheckpointCorruptError, CheckpointError

SHARED = torch.arange(12.0).reshape(6, 2)
STATE = OrderedDict(a=torch.ones(2, dtype=torch.bfloat16), n=torch.tensor([1, 2]), turned=SHARED.T)


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth"])
def test_a_file(is_zip, suffix, tmp_path):
    torch.save(STATE, tmp_path / f"x{suffix}", _use_new_zipfile_serialization=is_zip)
    made = convert(tmp_path / f"x{suffix}", tmp_path / "x.safetensors")
    state = read_state_dict(made.path)
    assert list(state) == ["a", "n", "turned"]
    assert all(
        torch.equal(state[name], STATE[name]) and state[name].dtype == STATE[name].dtype for name in STATE
    )
    assert made.files[0].digest == checkpoint_digest(made.path)
    assert verify(made.path).matches


@pytest.mark.parametrize("is_zip", [True, False])
def test_code_is_refused_by_name_and_never_runs(is_zip, tmp_path):
    content = {"a": torch.ones(2), "b": Evil(tmp_path / "ran")}
    torch.save(content, tmp_path / "x.bin", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(
        CheckpointError, match=r"needs code to be unpickled: \w+\.system\. Only tensors and plain"
    ):
        convert(tmp_path / "x.bin", tmp_path / "x.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.bin"]


def test_a_tensor_with_several_names_is_written_once(tmp_path):
    state = {
        "lm_head.weight": SHARED,
        "model.embed_tokens.weight": SHARED,
        "part": SHARED[:3],
        "z": SHARED.clone(),
    }
    torch.save(state, tmp_path / "x.bin")
    made = convert(tmp_path / "x.bin", tmp_path / "x.safetensors")
    assert made.tied == {"lm_head.weight": "model.embed_tokens.weight"}
    written = read_state_dict(made.path)
    assert list(written) == ["model.embed_tokens.weight", "part", "z"]
    assert torch.equal(written["part"], SHARED[:3])
    with open_checkpoint(made.path) as reader:
        assert reader.lineage["tied"] == made.tied


def test_a_model_folder_loads_and_runs_as_before(tiny, tmp_path):
    model = tiny.make(0)
    model.config.save_pretrained(tmp_path / "old")
    torch.save(model.state_dict(), tmp_path / "old" / "pytorch_model.bin")
    (tmp_path / "old" / "training_args.bin").touch()
    (tmp_path / "old" / "code.py").touch()
    made = convert(tmp_path / "old", tmp_path / "new")
    assert made.copied == ("config.json",)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["config.json", "model.safetensors"]
    loaded = tiny.load(tmp_path / "new")
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    torch.testing.assert_close(tiny.run(loaded), tiny.run(model))


def write_shards(folder, shards):
    folder.mkdir()
    weight_map = {}
    for shard, state in shards.items():
        torch.save(state, folder / shard)
        weight_map |= dict.fromkeys(state, shard)
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    return folder


def test_shards_stay_shards(tmp_path):
    one, two = {"a": torch.ones(2), "b": torch.zeros(3)}, {"c": SHARED}
    shards = {"pytorch_model-00001-of-00002.bin": one, "pytorch_model-00002-of-00002.bin": two}
    made = convert(write_shards(tmp_path / "old", shards), tmp_path / "new")
    assert [file.path.name for file in made.files] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    assert all(file.path.exists() for file in made.files)
    assert list(read_state_dict(tmp_path / "new")) == ["a", "b", "c"]


def test_an_adapter_folder(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1})
    )
    factors = {"lora_A.weight": torch.ones(1, 2), "lora_B.weight": torch.ones(3, 1)}
    state = {f"base_model.model.x.{name}": tensor for name, tensor in factors.items()}
    torch.save(state, tmp_path / "old" / "adapter_model.bin")
    convert(tmp_path / "old", tmp_path / "new")
    save_file({"x.weight": torch.zeros(3, 2)}, tmp_path / "base")
    assert read_state_dict(tmp_path / "new", base=tmp_path / "base")["x.weight"].tolist() == [[1.0, 1.0]] * 3


def test_all_bad_shards_are_told(tmp_path):
    folder = write_shards(tmp_path / "old", {"pytorch_model-1.bin": {"a": torch.ones(1)}})
    index = {"a": "pytorch_model-1.bin", "b": "gone.bin", "c": "../out.bin"}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(
        CheckpointError, match=r"(?s)'\.\./out\.bin' of .* leads outside .*'gone\.bin' of .* is missing"
    ):
        convert(folder, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("names", "count"), [((), 0), (("a.pt", "b.pt"), 2)])
def test_a_folder_that_does_not_say_what_its_weights_are(names, count, tmp_path):
    (tmp_path / "old").mkdir()
    for name in names:
        (tmp_path / "old" / name).touch()
    with pytest.raises(CheckpointError, match=rf"has {count} pickles .*Name the file itself"):
        convert(tmp_path / "old", tmp_path / "new")


def test_a_state_dict_inside_something_else(tmp_path):
    torch.save({"state_dict": {"a": SHARED}, "epoch": 3}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"dense tensors: state_dict, epoch\. .*--key state_dict"):
        convert(tmp_path / "x.pt", tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"has no key 'state': did you mean 'state_dict'\?"):
        convert(tmp_path / "x.pt", tmp_path / "x.safetensors", key="state")
    with pytest.raises(CheckpointError, match="key 'epoch', holds int and not a state dict"):
        convert(tmp_path / "x.pt", tmp_path / "x.safetensors", key="epoch")
    made = convert(tmp_path / "x.pt", tmp_path / "x.safetensors", key="state_dict")
    assert torch.equal(read_state_dict(made.path)["a"], SHARED)


def test_sparse_tensors(tmp_path):
    torch.save({"s": torch.eye(3).to_sparse()}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="holds more than dense tensors: s"):
        convert(tmp_path / "x.pt", tmp_path / "x.safetensors")


@pytest.mark.parametrize("data", [b"", b"hello", b"PK\x03\x04", b"PK\x03\x04" + bytes(300), b"\x80\x02."])
def test_files_that_are_no_pickles(data, tmp_path):
    (tmp_path / "x.bin").write_bytes(data)
    with pytest.raises(CheckpointCorruptError, match=r"is not a whole pickle of torch .*Fetch it again"):
        convert(tmp_path / "x.bin", tmp_path / "x.safetensors")


def test_requests_that_cannot_be(tmp_path):
    torch.save(STATE, tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match=r"Name it \*\.safetensors"):
        convert(tmp_path / "x.bin", tmp_path / "y.bin")
    with pytest.raises(CheckpointError, match="exists already"):
        convert(tmp_path / "x.bin", tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match="does not exist"):
        convert(tmp_path / "gone.bin", tmp_path / "y.safetensors")


def test_the_command(tmp_path):
    torch.save({"lm_head.weight": SHARED, "embed.weight": SHARED}, tmp_path / "x.bin")
    command, run = ["convert", str(tmp_path / "x.bin")], CliRunner().invoke
    said = run(make_app(), [*command, str(tmp_path / "1.safetensors")]).stdout
    assert "lm_head.weight shares its tensor with embed.weight and is stored once" in said
    answer = json.loads(run(make_app(), [*command, str(tmp_path / "2.safetensors"), "--json"]).stdout)
    assert answer["files"][0]["digest"] == checkpoint_digest(tmp_path / "2.safetensors")
    assert answer["tied"] == {"lm_head.weight": "embed.weight"}
    assert "exists already" in str(run(make_app(), [*command, str(tmp_path / "x.bin")]).exception)
