import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from merge_lib.checkpoints import (
    NO_DIGEST,
    CheckpointWriter,
    checkpoint_digest,
    open_checkpoint,
    read_state_dict,
    verify,
    write_state_dict,
)
from merge_lib.errors import CheckpointError

TENSORS = {"b": torch.ones(3, dtype=torch.float16), "a": torch.arange(4.0), "n": torch.tensor(7)}
LAYOUT = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in TENSORS.items()}


def test_the_same_input_gives_the_same_bytes(tmp_path):
    one = write_state_dict(tmp_path / "1", TENSORS, lineage={"b": 1, "a": {"y": 2, "x": 3}})
    other = write_state_dict(
        tmp_path / "2", dict(reversed(TENSORS.items())), lineage={"a": {"x": 3, "y": 2}, "b": 1}
    )
    assert one.path.read_bytes() == other.path.read_bytes()
    assert one.digest == other.digest
    assert one.size_bytes == one.path.stat().st_size


def test_the_file_is_laid_out_as_the_format_asks(tmp_path):
    path = write_state_dict(tmp_path / "x", TENSORS, lineage={"kind": "test"}).path
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0
    assert list(header) == ["__metadata__", "n", "a", "b"]  # widest elements first, then by name
    assert list(header["__metadata__"]) == ["format", "mergeline"]
    assert header["__metadata__"]["format"] == "pt"
    assert header["b"] == {"dtype": "F16", "shape": [3], "data_offsets": [24, 30]}


def test_the_lineage_holds_the_digest(tmp_path):
    written = write_state_dict(tmp_path / "x", TENSORS, lineage={"kind": "test", "digest": "of another file"})
    with open_checkpoint(written.path) as reader:
        assert reader.lineage == {"kind": "test", "digest": written.digest}
    assert checkpoint_digest(written.path) == written.digest
    assert verify(written.path).matches


def test_missing_folders_are_made_and_files_replaced(tmp_path):
    path = tmp_path / "new" / "folder" / "x.safetensors"
    write_state_dict(path, TENSORS, lineage={})
    write_state_dict(path, {"a": torch.zeros(1)}, lineage={})
    assert list(read_state_dict(path)) == ["a"]
    assert [file.name for file in path.parent.iterdir()] == ["x.safetensors"]


def test_views_and_odd_shapes(tmp_path):
    tensors = {
        "view": torch.arange(12.0).reshape(3, 4).T[1:],
        "empty": torch.empty(0, 2),
        "scalar": torch.tensor(1.5),
    }
    back = read_state_dict(write_state_dict(tmp_path / "x", tensors, lineage={}).path)
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert back["scalar"].shape == ()


def test_a_checkpoint_without_tensors(tmp_path):
    assert read_state_dict(write_state_dict(tmp_path / "x", {}, lineage={}).path) == {}


def test_leaving_without_finishing_leaves_nothing(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"what was there")
    with CheckpointWriter(path, LAYOUT, {}) as writer:
        writer.write("a", TENSORS["a"])
        assert len(list(tmp_path.iterdir())) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["x"]
    assert path.read_bytes() == b"what was there"


def test_a_tensor_that_was_not_written(tmp_path):
    with CheckpointWriter(tmp_path / "x", LAYOUT, {}) as writer:
        writer.write("a", TENSORS["a"])
        with pytest.raises(CheckpointError, match=r"lacks b, n\. Write every tensor"):
            writer.finish()
    assert not list(tmp_path.iterdir())


def test_a_tensor_that_was_not_laid_out_so(tmp_path):
    with (
        CheckpointWriter(tmp_path / "x", LAYOUT, {}) as writer,
        pytest.raises(
            CheckpointError, match=r"Tensor 'a' of .* is torch\.float32 \(2,\), but was laid out as"
        ),
    ):
        writer.write("a", torch.zeros(2))


def test_a_lineage_may_only_change_its_digests(tmp_path):
    with CheckpointWriter(tmp_path / "x", {}, {"base": NO_DIGEST}) as writer:
        with pytest.raises(CheckpointError, match="changed its length"):
            writer.finish({"base": "much longer than a digest could possibly have been"})
        assert writer.finish({"base": NO_DIGEST.replace("0", "1")}).path.exists()


def test_what_the_format_cannot_hold(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"Tensor 'x' of .* is torch\.complex128, which safetensors files cannot"
    ):
        write_state_dict(tmp_path / "x", {"x": torch.zeros(1, dtype=torch.complex128)}, lineage={})
    with pytest.raises(CheckpointError, match="is called '__metadata__', which names the metadata"):
        write_state_dict(tmp_path / "x", {"__metadata__": torch.zeros(1)}, lineage={})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (
            errno.ENOSPC,
            r"cannot be written: No space left on device\. Nothing was left behind\. Free some space",
        ),
        (errno.EDQUOT, r"Free some of the quota"),
        (errno.EIO, r"Input/output error\. Nothing was left behind\. Check the disk"),
    ],
)
def test_a_full_disk_is_found_before_the_first_tensor(number, message, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(CheckpointError, match=message):
        CheckpointWriter(tmp_path / "x", LAYOUT, {})
    assert not list(tmp_path.iterdir())


def test_a_file_system_that_cannot_claim_space(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert verify(write_state_dict(tmp_path / "x", TENSORS, lineage={}).path).matches


def test_a_read_only_folder(tmp_path, monkeypatch):
    def refuse(self, mode):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(
        CheckpointError, match=r"Read-only file system\. .* Write to a folder that is not read-only"
    ):
        write_state_dict(tmp_path / "x", TENSORS, lineage={})


def test_a_path_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot be written: (Not a directory|File exists)"):
        write_state_dict(tmp_path / "file" / "x", TENSORS, lineage={})


def test_a_limit_of_the_system_itself(tmp_path):
    """The kernel refuses, not a stand-in."""
    code = (
        "import resource, sys, torch\n"
        "from pathlib import Path\n"
        "from merge_lib.checkpoints import write_state_dict\n"
        "from merge_lib.errors import CheckpointError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    write_state_dict(Path(sys.argv[1]), {'x': torch.zeros(1000)}, lineage={})\n"
        "except CheckpointError as exc:\n"
        "    print(exc)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path.cwd(),
    )
    assert (
        "cannot be written: File too large. Nothing was left behind. Raise the file size limit" in done.stdout
    )
    assert not list(tmp_path.iterdir())
