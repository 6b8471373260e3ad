"""What is particular to merging on a device; that it gives the kernels' bytes is beside the kernels' tests."""

import json
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from merge_lib import MergeSpec
from merge_lib.checkpoints import read_state_dict, write_state_dict
from merge_lib.errors import CheckpointMismatchError, MethodInputError, SpecError
from merge_lib.kernels import calls as layout
from merge_lib.ops.chance import TensorGenerator
from merge_lib.ops.keys import DRAWS, draw_key
from merge_lib.streaming import executing, memory_bound
from merge_lib.streaming.calls import Call
from merge_lib.streaming.devices import plan_for
from merge_lib.streaming.journal import Journal
from merge_lib.streaming.layout import lay_out
from merge_lib.streaming.memory_bound import Bound, bound_memory
from merge_lib.streaming.on_device.chance import halves
from merge_lib.streaming.on_device.lanes import Lane
from merge_lib.streaming.on_device.thinning import keep_drawn
from merge_lib.streaming.output import Output
from merge_lib.streaming.planning import make_plan
from merge_lib.streaming.preflight import examine
from merge_lib.streaming.run import MergeOptions, merge_to
from merge_lib.streaming.scanning import Inputs


def of_torch(device: str) -> torch.device:
    return torch.device(device.removeprefix("torch:"))


@pytest.mark.parametrize("offset", [0, 3, 8, 1024, 8 * (2**32 - 2)])
def test_the_draws_are_those_of_the_methods(offset, device):
    key, stream = draw_key(11, 2, "w")
    upper, lower = (
        halves(key, stream, offset, 50, of_torch(device), second=second).cpu() for second in (False, True)
    )
    expected = TensorGenerator(11, "w", offset).bits(2, 50)
    assert (upper << 16 | lower).tolist() == expected.tolist()


@pytest.mark.parametrize("density", [0.0, 0.25, 0.123456789, 1.0])
def test_draws_whose_upper_half_is_the_limits_are_told_apart_by_the_lower(density, device):
    key, stream = draw_key(11, 2, "w")
    words = np.zeros(layout.EXPERT_WORDS, np.int64)
    words[[layout.KEY, layout.KEY_STREAM, layout.LIMIT]] = key, stream, round(density * DRAWS)
    kept = keep_drawn(words, 0, 1 << 19, of_torch(device)).cpu()
    assert torch.equal(kept.bool(), TensorGenerator(11, "w").keep(2, (1 << 19,), density))


def test_a_piece_is_on_its_way_when_the_one_before_it_is_given(make_checkpoints, device):
    _, experts = make_checkpoints(2, (torch.float32,))
    work = next(
        work for work in make_plan(MergeSpec(method="average", experts=experts)).works if work.name == "h"
    )
    read = []

    def fill(piece, space):
        _, first, count = piece
        read.append(first)
        for place in (1, 2):
            space.rows[place][: 4 * count].view(np.float32)[:] = first + place
        return [None, space.views[1][: 4 * count], space.views[2][: 4 * count]]

    lane = Lane(str(of_torch(device)), Bound(1, 4096, 0, 0, device_chunk=1024), 3, 1)
    numbers = np.array([2, 1, 1], np.float32)
    call = Call("linear.weighted_sum", (-1, 1, 2), numbers, np.array([layout.SUM, 0], np.int64))
    pieces = [(index, (work, start, 1000)) for index, start in enumerate((0, 1000, 2000))]
    given = []
    for made in lane.merged(iter(pieces), fill, [(call, work)], 1024):
        given.append((made.index, made.first, len(read), np.frombuffer(made.outs[0], np.float32).tolist()))
        assert np.frombuffer(made.inputs[2], np.float32).tolist() == [made.first + 2] * 1000
    assert given == [
        (index, start, min(index + 2, 3), [start + 1.5] * 1000) for index, start in enumerate((0, 1000, 2000))
    ]


@pytest.fixture
def few_values(tmp_path):
    """A base and experts whose task vectors have three magnitudes, so that limits are met by many entries."""
    generator = torch.Generator().manual_seed(2)
    paths = [tmp_path / f"{place}.safetensors" for place in range(3)]
    for path in paths:
        values = torch.randint(-1, 2, (9, 1111), generator=generator) * 0.5
        write_state_dict(path, {"w": values, "v": torch.zeros(700)}, lineage={})
    return paths[0], tuple(paths[1:])


@pytest.mark.parametrize("method", ["average", "dare", "ties", "magmax"])
@pytest.mark.parametrize("threads", [1, 3])
def test_threads_share_the_pieces_of_a_large_tensor(
    method, threads, device, few_values, assert_as_on_the_cpu, tmp_path, monkeypatch
):
    monkeypatch.setattr(memory_bound, "DEVICE_CHUNK", 1024)
    monkeypatch.setattr(executing, "_SHARED_FROM", 1000)
    base, experts = few_values
    spec = MergeSpec(method=method, base=base, experts=experts)
    kernels = merge_to(spec, tmp_path / "kernels.safetensors")
    there = merge_to(spec, tmp_path / "device.safetensors", MergeOptions(threads=threads, device=device))
    assert_as_on_the_cpu(there.path, kernels.path)


@pytest.mark.parametrize("method", ["ties", "breadcrumbs", "sce", "della"])
def test_entries_that_equal_a_limit_are_kept_by_their_offset(
    method, device, few_values, assert_as_on_the_cpu, tmp_path, monkeypatch
):
    from merge_lib.mergekit.run import merge_mergekit

    monkeypatch.setattr(memory_bound, "DEVICE_CHUNK", 1024)
    base, experts = few_values
    own = {"breadcrumbs": "density: 0.5, gamma: 0.2", "sce": "", "della": "density: 0.6, epsilon: 0.3"}
    parameters = own.get(method, "density: 0.3") + (", weight: 0.4" if method != "sce" else "")
    shared = "parameters: {select_topk: 0.3}\n" if method == "sce" else ""
    models = "".join(f"- model: {path}\n  parameters: {{{parameters}}}\n" for path in experts)
    (tmp_path / "recipe.yaml").write_text(
        f"merge_method: {method}\nbase_model: {base}\ndtype: float32\n{shared}models:\n{models}"
    )
    kernels, there = (
        merge_mergekit(tmp_path / "recipe.yaml", tmp_path / one / "merged.safetensors", options=options)
        for one, options in (("kernels", None), ("device", MergeOptions(device=device)))
    )
    assert_as_on_the_cpu(there.path, kernels.path)


def test_what_is_not_finite_is_told_as_without_a_device(make_checkpoints, device, tmp_path):
    base, experts = make_checkpoints(2, (torch.float16,))
    wide, near = (
        MergeSpec(method="task_arithmetic", params={"scale": scale}, base=base, experts=experts)
        for scale in (1e6, 1.0)
    )
    told = [told_of(wide, tmp_path / "too far", one) for one in ("cpu", device)]
    tensors = read_state_dict(experts[1])
    tensors["d"][3, 5] = float("nan")
    write_state_dict(experts[1], tensors, lineage={})
    told += [told_of(near, tmp_path / "not finite", one) for one in ("cpu", device)]
    assert (told[0], told[2]) == (told[1], told[3])
    assert "model2" in told[2]


def told_of(spec: MergeSpec, out: Path, device: str) -> str:
    with pytest.raises(MethodInputError) as caught:
        merge_to(spec, out, MergeOptions(threads=1, device=device))
    return str(caught.value)


def test_several_results_are_made_from_one_reading(
    make_checkpoints, device, assert_as_on_the_cpu, tmp_path, monkeypatch
):
    monkeypatch.setattr(memory_bound, "DEVICE_CHUNK", 2048)
    base, experts = make_checkpoints(2)
    specs = {
        name: MergeSpec(method=name, base=base, experts=experts, dtype="float32" if name == "dare" else None)
        for name in ("average", "dare", "task_arithmetic")
    }
    read: list[int] = []
    with ExitStack() as stack:
        runs, outputs = [], {}
        for name, spec in specs.items():
            plan = plan_for(partial(make_plan, spec), device)
            shard = lay_out("merged.safetensors", plan.tensors, {"format": "pt"})
            (tmp_path / name).mkdir()
            journal = stack.enter_context(Journal(tmp_path / name / "journal", name))
            output = stack.enter_context(Output(tmp_path / name, [shard], continues=False))
            runs.append(executing.Run(plan, output, journal))
            outputs[name] = (output, shard.header)
        inputs = stack.enter_context(Inputs((base, *experts), read.append))
        executing.Executor(runs, bound_memory([run.plan for run in runs], 2, None), inputs).run()
        for name, (output, header) in outputs.items():
            output.complete([header])
            output.name([tmp_path / name / "merged.safetensors"])
    assert sum(read) < 1.1 * sum(path.stat().st_size for path in (base, *experts))
    for name, spec in specs.items():
        alone = merge_to(spec, tmp_path / name / "alone")
        assert_as_on_the_cpu(tmp_path / name / "merged.safetensors", alone.path / "model.safetensors")


def test_the_manifest_names_the_device_and_torch(make_checkpoints, device, tmp_path):
    base, experts = make_checkpoints(2)
    spec = MergeSpec(method="ties", base=base, experts=experts)
    done = merge_to(spec, tmp_path / "out", MergeOptions(device=device))
    manifest = json.loads((done.path / "merge_manifest.json").read_text())
    assert manifest["arithmetic"] == done.arithmetic
    assert {"torch", "numba"} <= set(manifest["versions"])


def test_a_merge_is_not_continued_on_another_device(make_checkpoints, device):
    spec = MergeSpec(method="average", experts=make_checkpoints(2)[1])
    plans = [plan_for(partial(make_plan, spec), one) for one in ("cpu", device)]
    assert plans[0].fingerprint({}) == make_plan(spec).fingerprint({})
    assert plans[1].fingerprint({}) != plans[0].fingerprint({})


def test_a_device_that_is_not_there_is_refused_before_any_work(make_checkpoints, tmp_path):
    base, experts = make_checkpoints(2)
    spec = MergeSpec(method="ties", base=base, experts=experts)
    with pytest.raises(SpecError, match=r"Device 'gpu' is not known. Give cpu, cuda, or cuda:N"):
        merge_to(spec, tmp_path / "out", MergeOptions(device="gpu"))
    with pytest.raises(SpecError, match=r"Device 'cuda:99': torch .*, or merge with the device 'cpu'"):
        merge_to(spec, tmp_path / "out", MergeOptions(device="cuda:99"))
    assert not (tmp_path / "out").exists()


def test_all_that_is_wrong_is_told_together(make_checkpoints, tmp_path):
    base, experts = make_checkpoints(2)
    tensors = read_state_dict(experts[0])
    tensors["d"] = tensors["d"][:5].clone()
    write_state_dict(experts[0], tensors, lineage={})
    spec = MergeSpec(method="ties", base=base, experts=experts)
    with pytest.raises(CheckpointMismatchError, match=r"(?s)Tensor 'd' has shape.*Device 'gpu' is not known"):
        merge_to(spec, tmp_path / "out", MergeOptions(device="gpu"))


def test_methods_without_kernels_are_refused_by_name(make_checkpoints, device, tmp_path):
    spec = MergeSpec(method="slerp", experts=make_checkpoints(3)[1])
    rule = f"Device '{device}': slerp of more than two experts has no kernel, and only merges by methods with"
    with pytest.raises(SpecError, match=rule):
        merge_to(spec, tmp_path / "out", MergeOptions(device=device))
    assert rule in examine(spec, tmp_path / "out", MergeOptions(device=device)).problems[0]


def test_a_preview_names_the_device(make_checkpoints, device, tmp_path):
    spec = MergeSpec(method="average", experts=make_checkpoints(2)[1])
    preview = examine(spec, tmp_path / "out", MergeOptions(device=device))
    assert preview.arithmetic.startswith("torch on the CPU" if device == "torch:cpu" else "cuda (")
    assert preview.memory_bytes > 0


def test_the_bound_on_memory_counts_the_buffers_of_the_device(tmp_path, device):
    paths = tuple(tmp_path / f"{place}.safetensors" for place in range(2))
    for path in paths:
        write_state_dict(path, {"w": torch.zeros(3 << 20, dtype=torch.bfloat16)}, lineage={})
    plan = plan_for(lambda: make_plan(MergeSpec(method="average", experts=paths)), device)
    resident, row = 100 << 20, 4 * 4
    wide = bound_memory([plan], 2, None, resident)
    assert (wide.chunk, wide.piece) == (memory_bound.CHUNK, memory_bound.DEVICE_CHUNK)
    assert wide.buffer_bytes == 2 * row * (wide.chunk + 2 * wide.piece)
    tight = bound_memory([plan], 2, 170 << 20, resident)
    assert memory_bound.CHUNK <= tight.piece < wide.piece
    assert tight.process_bytes <= 170 << 20
    with pytest.raises(SpecError, match="to stay within 148 MiB, but needs about 149 MiB"):
        bound_memory([plan], 2, 148 << 20, resident)
