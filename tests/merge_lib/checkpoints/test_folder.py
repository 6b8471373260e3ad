"""Model folders as checkpoints."""

import json

import psutil
import pytest
import torch
from safetensors.torch import save_file

import merge_lib
from merge_lib.checkpoints import (
    FolderReader,
    TensorHeader,
    checkpoint_digest,
    open_checkpoint,
    read_state_dict,
    verify,
    write_state_dict,
)
from merge_lib.checkpoints.folder import OPEN_FILES
from merge_lib.errors import CheckpointCorruptError, CheckpointError, SpecError
from merge_lib.files import headers as file_headers
from merge_lib.files.folders import INDEX
from merge_lib.streaming.headers import read_source

A, B, C = torch.arange(6.0).reshape(2, 3), torch.tensor([1, 2, 3]), torch.ones(2, dtype=torch.bfloat16)


def write_folder(folder, shards, index=None):
    folder.mkdir(exist_ok=True)
    for shard, tensors in shards.items():
        save_file(tensors, folder / shard)
    if index is not None:
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def open_files() -> int:
    return psutil.Process().num_fds()


@pytest.fixture
def sharded(tmp_path):
    return write_folder(
        tmp_path / "model",
        {"s1.safetensors": {"c": C, "a": A}, "s2.safetensors": {"b": B}},
        {"a": "s1.safetensors", "b": "s2.safetensors", "c": "s1.safetensors"},
    )


def test_shards_are_one_checkpoint(sharded, tmp_path):
    with open_checkpoint(sharded) as reader:
        assert isinstance(reader, FolderReader)
        assert (reader.names, reader.label, reader.lineage) == (("a", "b", "c"), str(sharded), {})
        assert [reader.shape(name) for name in "abc"] == [(2, 3), (3,), (2,)]
        assert [reader.dtype(name) for name in "abc"] == [torch.float32, torch.int64, torch.bfloat16]
        assert all(torch.equal(reader.tensor(name), t) for name, t in zip("abc", (A, B, C), strict=True))
        assert reader.size_bytes == sum(path.stat().st_size for path in reader.shards)
    one = write_state_dict(tmp_path / "one", {"a": A, "b": B, "c": C}, lineage={})
    assert checkpoint_digest(sharded) == one.digest
    assert list(read_state_dict(sharded)) == ["a", "b", "c"]


@pytest.mark.parametrize("is_folder", [True, False])
def test_bytes_lie_where_it_is_said(is_folder, sharded, tmp_path):
    path = sharded if is_folder else write_state_dict(tmp_path / "one", {"a": A, "c": C}, lineage={}).path
    with open_checkpoint(path) as reader:
        place = reader.location("c")
        assert isinstance(place, TensorHeader)
        assert (place.size_bytes, place.dtype) == (4, "BF16")
        with place.path.open("rb") as file:
            file.seek(place.offset)
            assert file.read(4) == b"\x80\x3f\x80\x3f"  # 1.0 twice, as bfloat16


@pytest.mark.parametrize("names", [("model.safetensors",), ("x.safetensors", "y.safetensors")])
def test_without_an_index(names, tmp_path):
    shards = {name: {f"t{i}": A} for i, name in enumerate(names)}
    shards["adapter_model.safetensors"] = {"other": A}
    with open_checkpoint(write_folder(tmp_path / "model", shards)) as reader:
        assert reader.names == tuple(f"t{i}" for i in range(len(names)))


def test_headers_are_read_once_and_few_files_are_open(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "m", {f"s{i}.safetensors": {f"t{i}": A} for i in range(9)})
    headers = []
    parse = file_headers.parse_header
    monkeypatch.setattr(
        file_headers, "parse_header", lambda *given: headers.append(given[0]) or parse(*given)
    )
    before = open_files()
    with open_checkpoint(folder) as reader:
        assert open_files() == before
        for _ in range(2):
            for name in reader.names:
                reader.tensor(name)
                assert open_files() <= before + OPEN_FILES
    assert open_files() == before
    assert len(headers) == 9


def test_a_shard_that_changes_between_header_and_tensor(sharded):
    with open_checkpoint(sharded) as reader:
        save_file({"b": B + 1}, sharded / "new")
        (sharded / "new").replace(sharded / "s2.safetensors")
        with pytest.raises(CheckpointCorruptError, match="changed since its header was read"):
            reader.tensor("b")


def test_an_unknown_tensor(sharded):
    with (
        open_checkpoint(sharded) as reader,
        pytest.raises(CheckpointError, match=r"has no tensor 'd'.*known: a, b, c"),
    ):
        reader.location("d")


def refused(folder, kind=CheckpointError):
    """What is told of a folder, which is the same with torch and from headers alone."""
    with pytest.raises(kind, match=r".") as caught:
        open_checkpoint(folder)
    with pytest.raises(kind, match=r".") as planned:
        read_source(folder)
    assert str(planned.value) == str(caught.value)
    return str(caught.value)


def test_everything_wrong_with_index_and_headers_is_told_at_once(tmp_path):
    folder = write_folder(
        tmp_path / "m",
        {"s1.safetensors": {"a": A, "b": B}, "s2.safetensors": {"b": B, "c": C}},
        {"a": "s2.safetensors", "b": "s1.safetensors", "gone": "s1.safetensors"},
    )
    message = refused(folder, CheckpointCorruptError)
    for problem in (
        "Tensor 'b' of {} is in shard 's1.safetensors' and again in 's2.safetensors'.",
        "Tensor 'a' of {} is in shard 's1.safetensors', but the index puts it in 's2.safetensors'.",
        "Tensor 'c' of {} is in shard 's2.safetensors', but the index does not name it.",
        "Tensor 'gone' of {} is in no shard's header, but the index puts it in 's1.safetensors'.",
    ):
        assert problem.format(folder) in message


def test_every_bad_shard_is_told_at_once(sharded, tmp_path):
    outside = tmp_path / "outside.safetensors"
    save_file({"e": A}, outside)
    (sharded / "link.safetensors").symlink_to(outside)
    data = (sharded / "s2.safetensors").read_bytes()
    (sharded / "s2.safetensors").write_bytes(data[:-1])
    index = {"a": "s1.safetensors", "b": "s2.safetensors", "c": "s1.safetensors", "d": "s3.safetensors"}
    index |= {"e": "link.safetensors", "f": "../outside.safetensors", "g": str(outside)}
    (sharded / INDEX).write_text(json.dumps({"weight_map": index}))
    message = refused(sharded, CheckpointCorruptError)
    assert "s2.safetensors is not a whole safetensors file" in message
    assert "Shard 's3.safetensors' of" in message
    assert "is missing, but its index names it" in message
    for name in ("link.safetensors", "../outside.safetensors", str(outside)):
        assert f"Shard '{name}' of {sharded} leads to {outside}, outside of the folder" in message


def test_the_only_file_may_not_be_a_link_outwards(tmp_path):
    save_file({"a": A}, tmp_path / "outside")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.safetensors").symlink_to(tmp_path / "outside")
    assert "outside of the folder" in refused(tmp_path / "m")


def test_a_hub_cache_keeps_its_files_among_blobs(tmp_path):
    folder = tmp_path / "models--x--y" / "snapshots" / "abc"
    (tmp_path / "models--x--y" / "blobs").mkdir(parents=True)
    folder.mkdir(parents=True)
    save_file({"a": A}, tmp_path / "models--x--y" / "blobs" / "1f")
    (folder / "model.safetensors").symlink_to("../../blobs/1f")
    assert torch.equal(read_state_dict(folder)["a"], A)


def test_no_weights(tmp_path):
    assert "has no weights: neither model.safetensors nor" in refused(tmp_path)


def test_pickles_only(tmp_path):
    (tmp_path / "pytorch_model.bin").touch()
    message = refused(tmp_path)
    assert "only as pickles (pytorch_model.bin)" in message
    assert f"Run: mergeline convert {tmp_path} {tmp_path}-safe" in message


def test_weights_twice(sharded):
    save_file({"a": A}, sharded / "model.safetensors")
    assert "has both model.safetensors and model.safetensors.index.json" in refused(sharded)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 1}}', "[" * 100_000])
def test_an_index_that_cannot_be_read(text, sharded):
    (sharded / INDEX).write_text(text)
    assert "needs a JSON table 'weight_map'" in refused(sharded, CheckpointCorruptError)


def test_folders_merge_like_files(sharded, tmp_path):
    tensors = read_state_dict(sharded)
    expert = {name: t + 2 if t.is_floating_point() else t for name, t in tensors.items()}
    write_folder(tmp_path / "expert", {"model.safetensors": expert})
    spec = merge_lib.MergeSpec(method="average", base=sharded, experts=(sharded, tmp_path / "expert"))
    report = merge_lib.merge_checkpoints(spec, tmp_path / "out.safetensors")
    assert torch.equal(read_state_dict(report.path)["a"], A + 1)
    assert verify(report.path).matches


def test_a_folder_with_a_merge_in_it_says_where_it_comes_from(tmp_path):
    write_state_dict(tmp_path / "m" / "model.safetensors", {"a": A}, lineage={"kind": "test"})
    assert verify(tmp_path / "m").matches
    with open_checkpoint(tmp_path / "m") as reader:
        assert reader.lineage["kind"] == "test"


def test_a_merge_is_never_written_into_its_inputs(sharded):
    spec = merge_lib.MergeSpec(method="average", experts=(sharded,))
    with pytest.raises(SpecError, match=r"of the same run, or lies in an input"):
        merge_lib.merge_checkpoints(spec, sharded / "model.safetensors")
