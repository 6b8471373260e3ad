"""A merge on the disk: what lies there before, during and after."""

import errno
import json
import os
import platform
import subprocess
import sys
from threading import Event

import pytest
import torch
import xxhash

from merge_lib import MergeSpec
from merge_lib.checkpoints import checkpoint_digest, read_state_dict, verify, write_state_dict
from merge_lib.errors import CheckpointError, CheckpointMismatchError, MergeError, MethodInputError, SpecError
from merge_lib.kernels.loading import load
from merge_lib.streaming import memory_bound
from merge_lib.streaming.executing import Executor
from merge_lib.streaming.passes_memory import bins_of
from merge_lib.streaming.planning import make_plan
from merge_lib.streaming.preflight import examine
from merge_lib.streaming.run import MergeOptions, merge_to
from merge_lib.streaming.target import JOURNAL


class StoppedError(Exception):
    """What a test interrupts a merge with."""


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stop_after(tensors, monkeypatch):
    done = []
    act = Executor._do

    def counted(self, group, spaces, pool):
        if len(done) == tensors:
            raise StoppedError
        done.append(group.first.name)
        act(self, group, spaces, pool)

    monkeypatch.setattr(Executor, "_do", counted)
    return done


def printed_by_a_process(code, *arguments):
    """The words that code prints, in a process that has imported what a merge needs and no more."""
    imports = (
        "import sys; from pathlib import Path; from merge_lib import MergeSpec\n"
        "from merge_lib.streaming.run import merge_to\n"
    )
    command = [sys.executable, "-c", imports + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
@pytest.mark.parametrize("tensors", [0, 1, 5, 8])
def test_an_interrupted_merge_continues_to_the_same_bytes(
    method, tensors, make_checkpoints, tmp_path, monkeypatch
):
    base, experts = make_checkpoints(2)
    spec = MergeSpec(method=method, base=base, experts=experts)
    options = MergeOptions(threads=1, max_shard_bytes=20_000)
    whole = merge_to(spec, tmp_path / "whole", options)
    with monkeypatch.context() as patch:
        stop_after(tensors, patch)
        with pytest.raises(StoppedError):
            merge_to(spec, tmp_path / "again", options)
    left = set(files_of(tmp_path / "again"))
    assert "merge_manifest.json" not in left
    assert not any(name.endswith((".safetensors", "index.json")) for name in left)
    done = stop_after(99, monkeypatch)
    again = merge_to(spec, tmp_path / "again", options)
    assert (again.continued, len(done), again.digest) == (tensors, 9 - tensors, whole.digest)
    assert files_of(tmp_path / "again") == files_of(tmp_path / "whole")


def test_bytes_that_did_not_reach_the_disk_are_made_again(make_checkpoints, tmp_path, monkeypatch):
    base, experts = make_checkpoints(2)
    spec = MergeSpec(method="average", base=base, experts=experts)
    whole = merge_to(spec, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(8, patch)
        with pytest.raises(StoppedError):
            merge_to(spec, tmp_path / "again", MergeOptions(threads=1))
    partial = tmp_path / "again" / "model.safetensors.partial"
    with partial.open("r+b") as file:
        file.seek(-40_000, os.SEEK_END)
        file.write(b"lost to a power cut")
    with (tmp_path / "again" / JOURNAL).open("a") as file:
        file.write('{"tensor": "st')
    again = merge_to(spec, tmp_path / "again")
    assert again.continued < 8
    assert again.digest == whole.digest == checkpoint_digest(tmp_path / "again" / "model.safetensors")


def test_another_recipe_or_a_changed_input_starts_anew(make_checkpoints, tmp_path, monkeypatch):
    base, experts = make_checkpoints(2)
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        stop_after(4, patch)
        with pytest.raises(StoppedError):
            merge_to(MergeSpec(method="average", base=base, experts=experts), out, MergeOptions(threads=1))
    done = merge_to(MergeSpec(method="linear", base=base, experts=experts), out)
    assert done.continued == 0


def test_the_manifest_names_recipe_inputs_and_every_tensor(make_checkpoints, tmp_path):
    base, experts = make_checkpoints(2)
    spec = MergeSpec(method="dare", base=base, experts=experts, seed=3, exclude=("c", "steps"))
    done = merge_to(spec, tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "merge_manifest.json").read_text())
    assert manifest["recipe"] == {
        "method": "dare",
        "params": {"density": 0.9, "scale": 0.3},
        "seed": 3,
        "exclude": ["c", "steps"],
    }
    assert manifest["base"]["digest"] == checkpoint_digest(base)
    assert [entry["digest"] for entry in manifest["experts"]] == [checkpoint_digest(path) for path in experts]
    assert [entry["name"] for entry in manifest["experts"]] == ["model1.safetensors", "model2.safetensors"]
    assert (
        manifest["output"]["digest"]
        == done.digest
        == checkpoint_digest(tmp_path / "out" / "model.safetensors")
    )
    assert set(manifest["output"]["tensors"]) == set(read_state_dict(base))
    assert str(tmp_path) not in json.dumps(manifest)
    merged = read_state_dict(tmp_path / "out" / "model.safetensors")
    assert torch.equal(merged["c"], read_state_dict(base)["c"])


def test_one_file_has_its_lineage_and_its_manifest_beside(make_checkpoints, tmp_path):
    base, experts = make_checkpoints(2)
    done = merge_to(MergeSpec(method="ties", base=base, experts=experts), tmp_path / "m.safetensors")
    assert verify(done.path).matches
    assert sorted(p.name for p in tmp_path.glob("*m.*")) == ["m.merge_manifest.json", "m.safetensors"]


def test_what_is_there_is_not_written_over(make_checkpoints, tmp_path):
    base, experts = make_checkpoints(1)
    spec = MergeSpec(method="average", base=base, experts=experts)
    with pytest.raises(SpecError, match="is or holds an input"):
        merge_to(spec, tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.txt").touch()
    with pytest.raises(SpecError, match="exists and is no unfinished merge"):
        merge_to(spec, tmp_path / "own")
    (tmp_path / "own.safetensors").touch()
    with pytest.raises(SpecError, match="exists and is no unfinished merge"):
        merge_to(spec, tmp_path / "own.safetensors")
    merge_to(spec, tmp_path / "out")
    with pytest.raises(SpecError, match="holds a finished merge"):
        merge_to(spec, tmp_path / "out")


def test_values_that_are_not_finite_are_told_with_their_checkpoint(make_checkpoints, tmp_path):
    base, experts = make_checkpoints(2)
    tensors = read_state_dict(experts[1])
    tensors["g"][1, 5] = float("nan")
    write_state_dict(experts[1], tensors, lineage={})
    for method in ("average", "ties", "slerp", "magmax"):
        with pytest.raises(MethodInputError, match=r"'g' in '.*model2\.safetensors' has 1 of 4101 values"):
            merge_to(MergeSpec(method=method, base=base, experts=experts), tmp_path / method)
    tensors["g"][1, 5] = 3e38
    write_state_dict(experts[1], tensors, lineage={})
    spec = MergeSpec(method="task_arithmetic", params={"scale": 9.0}, base=base, experts=experts)
    with pytest.raises(MethodInputError, match="'g' merged by 'task_arithmetic' left the finite numbers"):
        merge_to(spec, tmp_path / "large")


def test_a_scale_beyond_float32_is_told_as_what_follows_from_it(make_checkpoints, tmp_path):
    base, experts = make_checkpoints(2)
    spec = MergeSpec(method="task_arithmetic", params={"scale": 1e39}, base=base, experts=experts)
    with pytest.raises(MethodInputError, match="merged by 'task_arithmetic' left the finite numbers"):
        merge_to(spec, tmp_path / "out", MergeOptions())


def test_whole_numbers_must_be_equal(make_checkpoints, tmp_path):
    base, experts = make_checkpoints(2)
    tensors = read_state_dict(experts[1])
    tensors["steps"][2999] = 0
    write_state_dict(experts[1], tensors, lineage={})
    with pytest.raises(CheckpointMismatchError, match=r"'steps' .I64. differs between experts"):
        merge_to(MergeSpec(method="average", base=base, experts=experts), tmp_path / "out")


def test_a_preview_lists_every_problem(make_checkpoints, tmp_path):
    base, experts = make_checkpoints(2)
    tensors = read_state_dict(experts[0])
    tensors["d"], tensors["extra"] = tensors["d"][:5].clone(), tensors.pop("e")
    write_state_dict(experts[0], tensors, lineage={})
    spec = MergeSpec(method="ties", base=base, experts=experts)
    told = "\n".join(examine(spec, tmp_path / "out").problems)
    assert "Tensor 'e' is missing in expert" in told
    assert "Tensor 'extra' is in expert" in told
    assert "Tensor 'd' has shape (5, 32) in expert" in told
    missing = MergeSpec(method="ties", base=tmp_path / "no", experts=(tmp_path / "neither", experts[1]))
    assert len(examine(missing, tmp_path / "out").problems) == 2


def test_a_bound_on_memory_makes_pieces_smaller_or_is_refused(make_checkpoints):
    plan = make_plan(MergeSpec(method="average", experts=make_checkpoints(2)[1]))
    resident = 100 << 20
    wide = memory_bound.bound_memory([plan], 2, None, resident)
    assert wide.chunk == memory_bound.CHUNK
    tight = memory_bound.bound_memory([plan], 2, wide.process_bytes - 2 * 4 * 4 * 100_000, resident)
    assert 16_384 < tight.chunk < 32_768
    assert tight.process_bytes <= wide.process_bytes - 2 * 4 * 4 * 100_000
    with pytest.raises(SpecError, match="to stay within 110 MiB, but needs about 117 MiB"):
        memory_bound.bound_memory([plan], 2, 110 << 20, resident)


def test_counts_and_sums_are_part_of_the_memory(make_checkpoints):
    base, experts = make_checkpoints(3)
    plans = [make_plan(MergeSpec(method=name, base=base, experts=experts)) for name in ("magmax", "ties")]
    plain, counting = (memory_bound.bound_memory([plan], 2, None).process_bytes for plan in plans)
    bins = bins_of(3, 2)
    assert bins == 1 << 19
    assert counting - plain >= 4 * bins * 3 * 2


def test_what_another_layout_has_left_goes(make_checkpoints, tmp_path, monkeypatch):
    base, experts = make_checkpoints(2)
    spec = MergeSpec(method="average", base=base, experts=experts)
    merge_to(spec, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(5, patch)
        with pytest.raises(StoppedError):
            merge_to(spec, tmp_path / "again", MergeOptions(threads=1, max_shard_bytes=20_000))
    (tmp_path / "again" / "model-00001-of-00004.safetensors.partial").rename(
        tmp_path / "again" / "model-00001-of-00004.safetensors"
    )
    merge_to(spec, tmp_path / "again")
    assert files_of(tmp_path / "again") == files_of(tmp_path / "whole")


def test_kernels_are_compiled_in_another_process(make_checkpoints, tmp_path, monkeypatch):
    monkeypatch.setenv("MERGELINE_CACHE", str(tmp_path / "cache"))
    unused = tmp_path / "cache" / "kernels" / "of other sources"
    unused.parent.mkdir(parents=True)
    unused.touch()
    os.utime(unused, (0, 0))
    _, experts = make_checkpoints(1)
    code = (
        f"merge_to(MergeSpec(method='average', experts=[{str(experts[0])!r}]), Path({str(tmp_path / 'out')!r}))\n"
        "print('numba' in sys.modules)"
    )
    assert printed_by_a_process(code) == ["False"]
    assert len(list((tmp_path / "cache" / "kernels").iterdir())) == 1


def test_machine_code_runs_alike_as_an_image_and_as_an_object_file(make_checkpoints, tmp_path, monkeypatch):
    from merge_lib.kernels.compiling import compile_kernel  # imports numba

    monkeypatch.setenv("MERGELINE_CACHE", str(tmp_path / "cache"))
    base, experts = make_checkpoints(2)
    code = (
        f"spec = MergeSpec(method='dare', base={str(base)!r}, experts={list(map(str, experts))})\n"
        "print(merge_to(spec, Path(sys.argv[1])).digest, 'llvmlite' in sys.modules)"
    )
    digest, has_llvm = printed_by_a_process(code, tmp_path / "first")
    is_known = (sys.platform, platform.machine()) == ("linux", "x86_64")
    assert has_llvm == str(not is_known)
    for kept in (tmp_path / "cache" / "kernels").iterdir():
        symbol, machine_code = compile_kernel(kept.name.partition("-")[0])
        body = json.dumps({"symbol": symbol}).encode() + b"\n" + machine_code
        kept.write_bytes(xxhash.xxh3_128_digest(body) + body)
        os.utime(kept, (0, 0))
    assert printed_by_a_process(code, tmp_path / "second") == [digest, "True"]
    assert all(kept.stat().st_mtime > 0 for kept in (tmp_path / "cache" / "kernels").iterdir())


def test_a_kernel_that_cannot_be_compiled_says_so(make_checkpoints, tmp_path, monkeypatch):
    monkeypatch.setenv("MERGELINE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(
        MergeError, match=r"The kernel 'linear\.nothing' could not be compiled: (?s:.*)nothing"
    ):
        load("linear.nothing")


def test_neither_a_preview_nor_a_merge_imports_torch(make_checkpoints, tmp_path):
    base, experts = make_checkpoints(1)
    code = (
        "from merge_lib.streaming.preflight import examine\n"
        f"spec = MergeSpec(method='ties', base={str(base)!r}, experts=[{str(experts[0])!r}])\n"
        f"assert not examine(spec, Path({str(tmp_path / 'out')!r})).problems; print('numba' in sys.modules)\n"
        f"merge_to(spec, Path({str(tmp_path / 'out')!r})); print({{'torch', 'numba'}} & set(sys.modules))"
    )
    merge_to(MergeSpec(method="ties", base=base, experts=experts), tmp_path / "compiles the kernels")
    assert printed_by_a_process(code) == ["False", "set()"]


def test_a_disk_that_fails_while_it_is_flushed_is_told(make_checkpoints, tmp_path, monkeypatch):
    base, experts = make_checkpoints(1)
    flushed = Event()

    def fail(_file):
        flushed.set()
        raise OSError(errno.EIO, "Input/output error")

    act = Executor._do
    monkeypatch.setattr(os, "fdatasync", fail)
    monkeypatch.setattr(Executor, "_do", lambda *given: flushed.wait(20) and act(*given))
    with pytest.raises(CheckpointError, match=r"cannot be written to .*: Input/output error"):
        merge_to(MergeSpec(method="average", base=base, experts=experts), tmp_path / "out")
    assert not (tmp_path / "out" / "merge_manifest.json").exists()
