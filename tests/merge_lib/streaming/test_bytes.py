"""The kernels against the torch functions: the same bytes."""

import json

import pytest
import torch

from merge_lib import MergeSpec, merge_checkpoints
from merge_lib.checkpoints import checkpoint_digest, read_state_dict
from merge_lib.streaming import memory_bound
from merge_lib.streaming.planning import KERNEL_METHODS, make_plan
from merge_lib.streaming.run import MergeOptions, merge_to

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
VARIANTS = [
    *((name, {}) for name in sorted(KERNEL_METHODS) if not name.startswith("mergekit.")),
    ("ties", {"trim": "tensor", "density": 0.37}),
    ("ties", {"density": 1.0}),
    ("dare", {"density": 0.5, "scale": 1.0}),
    ("linear", {"position": 0.0}),
    ("linear", {"position": 1.0}),
    ("slerp", {"position": 0.3}),
]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(memory_bound, "CHUNK", 4096)
    monkeypatch.setattr(memory_bound, "DEVICE_CHUNK", 3072)


@pytest.mark.parametrize(("method", "params"), VARIANTS)
@pytest.mark.parametrize("dtypes", [(BF16,), (F16,), (F32,), (BF16, F16, F32)])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_kernels_give_the_bytes_of_the_torch_functions(
    method, params, dtypes, count, make_checkpoints, tmp_path
):
    base, experts = make_checkpoints(count, dtypes)
    dtype = "float16" if len(dtypes) > 1 else None
    spec = MergeSpec(method=method, params=params, base=base, experts=experts, seed=7, dtype=dtype)
    reference = merge_checkpoints(spec, tmp_path / "reference.safetensors")
    streamed = merge_to(spec, tmp_path / "streamed.safetensors", MergeOptions(threads=2))
    assert streamed.arithmetic == "kernels" or (method, count) == ("slerp", 4)
    assert streamed.path.read_bytes() == reference.path.read_bytes()


@pytest.mark.parametrize(("method", "params"), VARIANTS)
@pytest.mark.parametrize("dtypes", [(BF16,), (F16,), (F32,), (BF16, F16, F32)])
def test_a_device_gives_what_the_kernels_give(
    method, params, dtypes, device, make_checkpoints, assert_as_on_the_cpu, tmp_path
):
    base, experts = make_checkpoints(2 if method == "slerp" else 3, dtypes)
    dtype = "float16" if len(dtypes) > 1 else None
    spec = MergeSpec(method=method, params=params, base=base, experts=experts, seed=7, dtype=dtype)
    kernels = merge_to(spec, tmp_path / "kernels.safetensors", MergeOptions(threads=2))
    there = merge_to(spec, tmp_path / "device.safetensors", MergeOptions(threads=2, device=device))
    assert there.arithmetic.startswith("torch on the CPU" if device == "torch:cpu" else "cuda (")
    assert_as_on_the_cpu(there.path, kernels.path)


@pytest.mark.parametrize("method", ["average", "ties", "dare", "slerp"])
def test_neither_threads_nor_pieces_nor_shards_change_a_tensor(
    method, make_checkpoints, tmp_path, monkeypatch
):
    base, experts = make_checkpoints(2)
    spec = MergeSpec(method=method, base=base, experts=experts)
    digests, tensors = set(), []
    for place, (threads, piece, shard) in enumerate(
        [(1, 4096, 10**9), (2, 5120, 4000), (3, 1 << 17, 20_000)]
    ):
        monkeypatch.setattr(memory_bound, "CHUNK", piece)
        done = merge_to(spec, tmp_path / str(place), MergeOptions(threads=threads, max_shard_bytes=shard))
        digests.add(done.digest)
        files = sorted(done.path.glob("*.safetensors"))
        tensors.append({name: t for file in files for name, t in read_state_dict(file).items()})
        assert len(files) == {0: 1, 1: 7, 2: 4}[place]
    assert digests == {checkpoint_digest(tmp_path / "0" / "model.safetensors")}
    for other in tensors[1:]:
        assert other.keys() == tensors[0].keys()
        assert all(torch.equal(other[name], tensors[0][name]) for name in other)


def test_the_index_names_every_tensor(make_checkpoints, tmp_path):
    base, experts = make_checkpoints(2)
    spec = MergeSpec(method="average", base=base, experts=experts)
    done = merge_to(spec, tmp_path / "out", MergeOptions(max_shard_bytes=20_000))
    index = json.loads((done.path / "model.safetensors.index.json").read_text())
    for name, file in index["weight_map"].items():
        assert name in read_state_dict(done.path / file)
    total = sum(t.numel() * t.element_size() for t in read_state_dict(base).values())
    assert index["metadata"]["total_size"] == total


def test_a_tensor_that_is_larger_than_a_block_of_sums(tmp_path):
    """The angle of SLERP is summed in blocks of 2^20; the order of the sum is numpy's."""
    from merge_lib.checkpoints import write_state_dict

    generator = torch.Generator().manual_seed(1)
    experts = (tmp_path / "1.safetensors", tmp_path / "2.safetensors")
    for path in experts:
        write_state_dict(path, {"w": torch.randn((1 << 20) + 777, generator=generator)}, lineage={})
    spec = MergeSpec(method="slerp", experts=experts)
    reference = merge_checkpoints(spec, tmp_path / "reference.safetensors")
    streamed = merge_to(spec, tmp_path / "streamed.safetensors", MergeOptions(threads=1))
    assert streamed.path.read_bytes() == reference.path.read_bytes()


def test_float64_and_methods_of_others_take_the_torch_route(make_checkpoints, tmp_path):
    base, experts = make_checkpoints(2, (torch.float64,))
    spec = MergeSpec(method="ties", base=base, experts=experts)
    assert make_plan(spec).why_torch == "a tensor is F64, so the arithmetic is float64"
    reference = merge_checkpoints(spec, tmp_path / "reference.safetensors")
    streamed = merge_to(spec, tmp_path / "streamed.safetensors")
    assert streamed.path.read_bytes() == reference.path.read_bytes()
    assert streamed.arithmetic == "torch: a tensor is F64, so the arithmetic is float64"
