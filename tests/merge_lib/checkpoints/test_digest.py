import pytest
import torch

from merge_lib.checkpoints import checkpoint_digest, verify, write_state_dict

TENSORS = {"a": torch.arange(4.0), "b": torch.tensor([1, 2])}
GOLDEN = "xxh3:ed85932e53228209fc0562dd09ad92b5"


def digest_of(tensors, path, lineage=None):
    return write_state_dict(path, tensors, lineage=lineage or {}).digest


@pytest.mark.parametrize(
    "changed",
    [
        {**TENSORS, "a": torch.tensor([0.0, 1.0, 2.0, 3.5])},
        {**TENSORS, "a": torch.arange(4.0).reshape(2, 2)},
        {**TENSORS, "a": torch.arange(4.0).view(torch.int32)},
        {"c": TENSORS["a"], "b": TENSORS["b"]},
        {"a": TENSORS["a"]},
    ],
)
def test_values_shapes_dtypes_and_names_count(changed, tmp_path):
    assert digest_of(changed, tmp_path / "x") != digest_of(TENSORS, tmp_path / "x")


def test_the_lineage_does_not_count(tmp_path):
    assert digest_of(TENSORS, tmp_path / "x", {"kind": "other"}) == digest_of(TENSORS, tmp_path / "y")


def test_the_digest_never_changes(tmp_path):
    assert digest_of(TENSORS, tmp_path / "x") == GOLDEN


def test_a_changed_tensor_is_seen(tmp_path):
    path = write_state_dict(tmp_path / "x", TENSORS, lineage={}).path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    found = verify(path)
    assert not found.matches
    assert found.recorded == GOLDEN
    assert found.digest == checkpoint_digest(path)


def test_a_file_that_records_nothing_is_not_verified(tmp_path):
    from safetensors.torch import save_file

    save_file(TENSORS, tmp_path / "x")
    found = verify(tmp_path / "x")
    assert (found.recorded, found.digest, found.matches) == (None, GOLDEN, False)
