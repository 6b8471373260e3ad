"""Files that are not what they should be."""

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from merge_lib.checkpoints import open_checkpoint, read_state_dict, write_state_dict
from merge_lib.checkpoints.dtypes import DTYPES
from merge_lib.errors import CheckpointCorruptError, CheckpointError
from merge_lib.files.headers import parse_header
from merge_lib.streaming.headers import read_source

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2, 3]), "c": torch.tensor(True)}


def build(header: dict | str, data: bytes) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "whole.safetensors"
    write_state_dict(path, TENSORS, lineage={"kind": "test"})
    return path


def test_it_reads_what_the_safetensors_library_writes(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    with open_checkpoint(path) as reader:
        assert reader.names == ("a", "b", "c")
        assert (reader.shape("a"), reader.dtype("b"), reader.lineage) == ((2, 3), torch.int64, {})
        assert reader.size_bytes == path.stat().st_size
    assert all(torch.equal(read_state_dict(path)[name], TENSORS[name]) for name in TENSORS)


def test_the_safetensors_library_reads_what_is_written(whole):
    loaded = load_file(whole)
    assert sorted(loaded) == sorted(TENSORS)
    assert all(torch.equal(loaded[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_every_dtype_goes_out_and_comes_back(dtype, tmp_path):
    raw = torch.arange(64, dtype=torch.uint8)
    if dtype == "BOOL":
        raw %= 2
    tensor = raw.view(DTYPES[dtype])
    written = write_state_dict(tmp_path / "x.safetensors", {"x": tensor, "odd": raw[:3]}, lineage={})
    back = read_state_dict(written.path)["x"]
    assert back.dtype == tensor.dtype
    assert torch.equal(back.view(torch.uint8), raw)


def test_tensors_can_be_written_to_and_outlive_the_reader(whole):
    with open_checkpoint(whole) as reader:
        tensor = reader.tensor("a")
    tensor += 1
    assert tensor.sum().item() == 21.0


def test_a_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone\.safetensors does not exist\. Check the path"):
        open_checkpoint(tmp_path / "gone.safetensors")


def test_an_unknown_tensor(whole):
    with (
        open_checkpoint(whole) as reader,
        pytest.raises(CheckpointError, match=r"has no tensor 'aa': did you mean 'a'\? known: a, b, c"),
    ):
        reader.tensor("aa")


def test_truncated_anywhere(whole):
    data = whole.read_bytes()
    for length in range(len(data)):
        whole.write_bytes(data[:length])
        with pytest.raises(
            CheckpointCorruptError, match=r"is not a whole safetensors file: .*Write the file again"
        ):
            open_checkpoint(whole)


def test_bytes_behind_the_end(whole):
    whole.write_bytes(whole.read_bytes() + b"x")
    with pytest.raises(
        CheckpointCorruptError, match=r"its tensors need \d+ bytes of data, but the file holds"
    ):
        open_checkpoint(whole)


def test_a_file_that_shrinks_while_it_is_open(tmp_path):
    path = write_state_dict(tmp_path / "x", {"x": torch.zeros(100_000)}, lineage={}).path
    with open_checkpoint(path) as reader:
        os.truncate(path, path.stat().st_size - 10)
        with pytest.raises(CheckpointCorruptError, match="it ended 10 bytes before the end of tensor 'x'"):
            reader.tensor("x")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it has 0 bytes, fewer than the 8"),
        ((2**63).to_bytes(8, "little") + b"{}", r"its header claims 9223372036854775808 bytes"),
        (build("{", b""), "Expecting property name"),
        (build("[]", b""), "the header is not a JSON object"),
        (build("[" * 100_000, b""), "."),
        ((2).to_bytes(8, "little") + b"\xff\xfe", "can't decode byte 0xff"),
        (build({"__metadata__": {"a": 1}}, b""), "its metadata is not a table of strings"),
        (build({"x": 3}, b""), "tensor 'x' is not described by dtype, shape and data_offsets"),
        (build({"x": entry([])}, bytes(8)), r"tensor 'x' has the unknown dtype \[\]"),
        (build({"x": entry("F31")}, bytes(8)), "tensor 'x' has the unknown dtype 'F31'"),
        (build({"x": entry(shape=(-2,))}, bytes(8)), r"tensor 'x' has the shape \[-2\]"),
        (build({"x": entry(shape=(2.0,))}, bytes(8)), r"tensor 'x' has the shape \[2\.0\]"),
        (build({"x": entry(offsets=(0, 8, 9))}, bytes(8)), r"and the offsets \[0, 8, 9\]"),
        (build({"x": entry(shape=(3,))}, bytes(8)), "has 8 bytes, but its dtype and shape need 12"),
        (
            build({"x": entry(), "y": entry(offsets=(4, 12))}, bytes(12)),
            "tensor 'y' starts at byte 4 .* overlaps",
        ),
        (
            build({"x": entry(), "y": entry(offsets=(9, 17))}, bytes(17)),
            "tensor 'y' starts at byte 9 .* leaves a gap",
        ),
        (build({"x": entry(offsets=(8, 16))}, bytes(16)), "tensor 'x' starts at byte 8 .* leaves a gap"),
        (build('{"x": %s, "x": %s}' % ((json.dumps(entry()),) * 2), bytes(8)), "the names x occur twice"),
    ],
)
def test_lying_headers(data, message, tmp_path):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    for read in (open_checkpoint, read_source):
        with pytest.raises(CheckpointCorruptError, match=message):
            read(path)


@pytest.mark.parametrize(
    ("value", "message"), [("{", "its lineage is not JSON"), ("[]", "not a JSON object")]
)
def test_a_lineage_that_cannot_be_read(value, message, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path, metadata={"mergeline": value})
    with open_checkpoint(path) as reader, pytest.raises(CheckpointCorruptError, match=message):
        assert reader.lineage


@given(place=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_flipped_header_is_refused_or_still_describes_the_file(place, value):
    header = {"a": entry("F32", (2, 3), (0, 24)), "b": entry("I64", (3,), (24, 48))}
    text = bytearray(json.dumps(header).encode())
    text[place % len(text)] = value
    try:
        tensors, _ = parse_header(Path("x"), bytes(text), 8 + len(text) + 48)
    except ValueError:
        return
    assert sum(tensor.size_bytes for tensor in tensors.values()) == 48
