"""Element types of inputs and results."""

import pytest
import torch

import merge_lib
from merge_lib.checkpoints import open_checkpoint, read_state_dict, write_state_dict
from merge_lib.errors import CheckpointMismatchError, SpecError

MIXED = (torch.float16, torch.bfloat16, torch.float32)


def write(path, dtype, value=1.0):
    tensors = {"w": torch.full((3,), value, dtype=dtype), "n": torch.tensor([1, 2])}
    return write_state_dict(path, tensors, lineage={}).path


@pytest.fixture
def mixed(tmp_path):
    return tuple(write(tmp_path / str(i), dtype, 1 + i) for i, dtype in enumerate(MIXED))


def test_dtypes_may_differ_when_the_result_is_stated(mixed, tmp_path):
    spec = merge_lib.MergeSpec(method="average", experts=mixed, dtype="bfloat16")
    merged = read_state_dict(merge_lib.merge_checkpoints(spec, tmp_path / "out").path)
    assert merged["w"].dtype == torch.bfloat16
    assert merged["w"].tolist() == [2.0] * 3
    assert merged["n"].dtype == torch.int64


def test_dtypes_may_not_differ_otherwise(mixed, tmp_path):
    spec = merge_lib.MergeSpec(method="average", experts=mixed)
    with pytest.raises(
        CheckpointMismatchError, match=r"(?s)dtype torch\.bfloat16 .*if `dtype` states the result's"
    ):
        merge_lib.merge_checkpoints(spec, tmp_path / "out")


def test_an_integer_is_never_a_floating_number(tmp_path):
    paths = (write(tmp_path / "1", torch.float32), write(tmp_path / "2", torch.int32))
    spec = merge_lib.MergeSpec(method="average", experts=paths, dtype="float32")
    with pytest.raises(CheckpointMismatchError, match=r"'w' has dtype torch\.int32"):
        merge_lib.merge_checkpoints(spec, tmp_path / "out")


def test_by_default_a_result_looks_like_the_base(mixed, tmp_path):
    for base, experts, dtype in ((mixed[0], (mixed[0],), torch.float16), (None, (mixed[1],), torch.bfloat16)):
        spec = merge_lib.MergeSpec(method="average", base=base, experts=experts)
        with open_checkpoint(merge_lib.merge_checkpoints(spec, tmp_path / "out").path) as reader:
            assert reader.dtype("w") == dtype


def test_excluded_tensors_stay_as_they_are(mixed, tmp_path):
    spec = merge_lib.MergeSpec(
        method="average", base=mixed[0], experts=mixed, exclude=("w",), dtype="float64"
    )
    assert (
        read_state_dict(merge_lib.merge_checkpoints(spec, tmp_path / "out").path)["w"].dtype == torch.float16
    )


def test_arithmetic_is_in_float32():
    experts = [{"w": torch.tensor([value], dtype=torch.bfloat16)} for value in (256.0, 1.0)]
    merged = merge_lib.merge("average", experts, dtype=torch.float32)
    assert merged["w"].tolist() == [128.5]  # 256 + 1 is 256 in bfloat16


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_8_bit_results(dtype):
    experts = [{"w": torch.tensor([value]).to(dtype)} for value in (1.0, 2.0)]
    merged = merge_lib.merge("average", experts)["w"]
    assert (merged.dtype, merged.to(torch.float32).item()) == (dtype, 1.5)


def test_an_unknown_dtype(mixed):
    with pytest.raises(SpecError, match="`dtype`: Input should be 'float64', 'float32'"):
        merge_lib.MergeSpec(method="average", experts=mixed, dtype="bf16")
