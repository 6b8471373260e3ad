"""Several merges from one reading: the bytes of each made alone, and no more read than by one of them."""

import json
import weakref

import pytest
import torch

from merge_lib import (
    MergeSpec,
    merge_checkpoints,
    merge_in_turn,
    merge_many,
    merge_many_in_memory,
    registry,
)
from merge_lib.checkpoints import open_checkpoint, read_state_dict, verify, write_state_dict
from merge_lib.errors import CheckpointCorruptError, CheckpointMismatchError, MethodInputError, SpecError
from merge_lib.streaming import memory_bound
from merge_lib.streaming.executing import Executor
from merge_lib.streaming.planning import make_plan
from merge_lib.streaming.run import Asked, MergeOptions, RefusedError, merge_all, merge_to
from merge_lib.streaming.runs import Run
from merge_lib.streaming.together import shares

WITHOUT_DATA = tuple(info.name for info in registry.methods() if info.data == "none")

ONE_PASS = ("average", "dare", "ema", "linear", "magmax", "running_average", "task_arithmetic")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(memory_bound, "CHUNK", 4096)


class StoppedError(Exception):
    """What a test interrupts merges with."""


def asked_for(specs, folder):
    return [
        Asked(lambda spec=spec: make_plan(spec), folder / f"{i}-{spec.method}")
        for i, spec in enumerate(specs)
    ]


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def differing_specs(base, experts):
    """Merges that share all, some or only a part of their inputs."""
    every = [MergeSpec(method=name, base=base, experts=experts, seed=3) for name in WITHOUT_DATA]
    return [
        *every,
        MergeSpec(method="average", experts=experts),
        MergeSpec(method="average", experts=experts[1:]),
        MergeSpec(method="linear", experts=(experts[2], experts[0])),
        MergeSpec(method="slerp", base=base, experts=experts[:2]),
        MergeSpec(method="ties", base=base, experts=experts, params={"density": 0.4}),
        MergeSpec(method="ties", base=base, experts=experts, params={"density": 0.4, "trim": "tensor"}),
        MergeSpec(method="task_arithmetic", base=experts[0], experts=(base, experts[1], base)),
        MergeSpec(method="dare", base=base, experts=experts[::-1], exclude=("c", "steps")),
    ]


@pytest.mark.parametrize("threads", [1, 3])
def test_each_has_the_bytes_that_it_has_alone(threads, make_checkpoints, tmp_path):
    base, experts = make_checkpoints(3)
    specs = differing_specs(base, experts)
    options = MergeOptions(threads=threads, max_shard_bytes=30_000)
    together = merge_all(asked_for(specs, tmp_path / "together"), options)
    for spec, done in zip(specs, together, strict=True):
        alone = merge_to(spec, tmp_path / "alone" / done.path.name, options)
        assert (done.digest, done.tensors, done.continued) == (alone.digest, alone.tensors, 0)
        assert files_of(done.path) == files_of(alone.path)


def test_merges_of_one_pass_read_what_one_of_them_reads(make_checkpoints, tmp_path):
    base, experts = make_checkpoints(3)
    read = []

    def count(name, *specs):
        read.clear()
        merge_all(asked_for(specs, tmp_path / name), MergeOptions(threads=2, progress=read.append))
        return sum(read)

    one = count("one", MergeSpec(method="task_arithmetic", base=base, experts=experts))
    every = [MergeSpec(method=name, base=base, experts=experts) for name in ONE_PASS]
    assert count("every", *every) == one
    without_base = [
        MergeSpec(method="average", experts=experts),
        MergeSpec(method="linear", experts=experts[1:]),
    ]
    integers = 8 * 3000  # are compared by each set of experts
    assert count("without", *every, *without_base) == one + 2 * integers


def test_ties_at_several_densities_finds_its_thresholds_together(make_checkpoints, tmp_path):
    base, experts = make_checkpoints(2)
    read = []

    def count(name, *densities):
        read.clear()
        specs = [
            MergeSpec(method="ties", base=base, experts=experts, params={"density": density})
            for density in densities
        ]
        merge_all(asked_for(specs, tmp_path / name), MergeOptions(threads=2, progress=read.append))
        return sum(read)

    assert count("four", 0.1, 0.2, 0.5, 0.9) == count("one", 0.2)


def test_one_that_is_refused_does_not_lose_the_others(make_checkpoints, tmp_path):
    base, experts = make_checkpoints(2, (torch.float16,))
    good = [MergeSpec(method=name, base=base, experts=experts) for name in ("average", "ties")]
    bad = MergeSpec(method="task_arithmetic", base=base, experts=experts, params={"scale": 1e6})
    too = MergeSpec(method="magmax", base=base, experts=experts, params={"scale": 1e6})
    asked = asked_for([good[0], bad, good[1], too], tmp_path / "out")
    with pytest.raises(RefusedError, match="2 of 4 merges cannot be made; the others are finished") as caught:
        merge_all(asked, MergeOptions(threads=2))
    assert [done.path.name for done in caught.value.done] == ["0-average", "2-ties"]
    assert [out.name for out in caught.value.refused] == ["1-task_arithmetic", "3-magmax"]
    assert str(caught.value).count("left the finite numbers of torch.float16") == 2
    for done, spec in zip(caught.value.done, good, strict=True):
        assert done.digest == merge_to(spec, tmp_path / "alone" / done.path.name).digest
    assert not (tmp_path / "out" / "1-task_arithmetic" / "merge_manifest.json").exists()


def test_an_expert_that_is_not_finite_refuses_only_those_that_it_is_in(make_checkpoints, tmp_path):
    base, experts = make_checkpoints(3)
    broken = read_state_dict(experts[2])
    broken["f"][7] = float("nan")
    write_state_dict(experts[2], broken, lineage={})
    specs = [
        MergeSpec(method="ties", base=base, experts=experts),
        MergeSpec(method="slerp", base=base, experts=experts[1:]),
        MergeSpec(method="slerp", experts=experts),  # in torch
        MergeSpec(method="average", experts=experts[:2]),
    ]
    with pytest.raises(RefusedError) as caught:
        merge_all(asked_for(specs, tmp_path / "out"))
    assert [done.path.name for done in caught.value.done] == ["3-average"]
    assert len(caught.value.refused) == 3
    for refusal in caught.value.refused.values():
        assert isinstance(refusal, MethodInputError)
        assert "Tensor 'f' in" in str(refusal)
        assert "model3.safetensors' has 1 of 4096 values" in str(refusal)


def test_integers_that_differ_refuse_only_those_that_they_are_in(make_checkpoints, tmp_path):
    _, experts = make_checkpoints(3)
    other = read_state_dict(experts[2])
    other["steps"] += 1
    write_state_dict(experts[2], other, lineage={})
    specs = [
        MergeSpec(method="average", experts=experts),
        MergeSpec(method="average", experts=experts[:2]),
    ]
    with pytest.raises(RefusedError) as caught:
        merge_all(asked_for(specs, tmp_path / "out"))
    (refusal,) = caught.value.refused.values()
    assert isinstance(refusal, CheckpointMismatchError)
    assert [done.path.name for done in caught.value.done] == ["1-average"]


@pytest.mark.parametrize("tensors", [0, 4, 8])
def test_interrupted_merges_continue_beside_new_ones(tensors, make_checkpoints, tmp_path, monkeypatch):
    base, experts = make_checkpoints(2)
    specs = [MergeSpec(method=name, base=base, experts=experts) for name in ("average", "ties", "dare")]
    done = []
    act = Executor._do

    def stopped(self, group, spaces, pool):
        if len(done) == tensors:
            raise StoppedError
        done.append(group.first.name)
        act(self, group, spaces, pool)

    with monkeypatch.context() as patch:
        patch.setattr(Executor, "_do", stopped)
        with pytest.raises(StoppedError):
            merge_all(asked_for(specs[:2], tmp_path / "out"), MergeOptions(threads=1))
    assert not list((tmp_path / "out").glob("*/merge_manifest.json"))
    made = merge_all(asked_for(specs, tmp_path / "out"), MergeOptions(threads=1))
    assert [one.continued for one in made] == [tensors, tensors, 0]
    for spec, one in zip(specs, made, strict=True):
        alone = merge_to(spec, tmp_path / "alone" / one.path.name)
        assert files_of(alone.path) == files_of(one.path)


def test_finished_merges_are_left_alone_where_that_is_wanted(make_checkpoints, tmp_path):
    base, experts = make_checkpoints(2)
    specs = [MergeSpec(method=name, base=base, experts=experts) for name in ("average", "linear")]
    first = merge_all(asked_for(specs[:1], tmp_path / "out"))
    with pytest.raises(SpecError, match="holds a finished merge"):
        merge_all(asked_for(specs, tmp_path / "out"))
    again = merge_all(asked_for(specs, tmp_path / "out"), leaves_finished=True)
    assert [one.was_finished for one in again] == [True, False]
    assert (again[0].digest, again[0].size_bytes) == (first[0].digest, first[0].size_bytes)
    other = MergeSpec(method="average", base=base, experts=experts[:1])
    with pytest.raises(SpecError, match="holds a finished merge with other inputs"):
        merge_all(asked_for([other], tmp_path / "out"), leaves_finished=True)
    with (tmp_path / "out" / "0-average" / "model.safetensors").open("ab") as file:
        file.write(b"more")
    with pytest.raises(SpecError, match=r"a file model\.safetensors that is missing or has another size"):
        merge_all(asked_for(specs, tmp_path / "out"), leaves_finished=True)
    (tmp_path / "out" / "0-average" / "merge_manifest.json").write_text("{")
    with pytest.raises(SpecError, match="cannot be read"):
        merge_all(asked_for(specs, tmp_path / "out"), leaves_finished=True)


def test_all_that_is_wrong_is_told_before_anything_is_written(make_checkpoints, tmp_path):
    base, experts = make_checkpoints(2)
    spec = MergeSpec(method="average", base=base, experts=experts)
    missing = MergeSpec(method="average", base=base, experts=(tmp_path / "none", experts[0]))
    gone = MergeSpec(method="average", base=tmp_path / "gone", experts=experts)
    with pytest.raises(Exception, match="does not exist") as caught:
        merge_all(asked_for([spec, missing, gone], tmp_path / "out"))
    assert "1-average: " in str(caught.value)
    assert "2-average: " in str(caught.value)
    clashes = [
        [Asked(lambda: make_plan(spec), tmp_path / "x"), Asked(lambda: make_plan(spec), tmp_path / "x")],
        [
            Asked(lambda: make_plan(spec), tmp_path / "x"),
            Asked(lambda: make_plan(spec), tmp_path / "x" / "y"),
        ],
    ]
    for clash in clashes:
        with pytest.raises(SpecError, match="used by another merge, or lies in its output"):
            merge_all(clash)
    only = MergeSpec(method="average", experts=experts[:1])
    with pytest.raises(SpecError, match="is or holds an input"):  # of the other merge
        merge_all([Asked(lambda: make_plan(only), base), Asked(lambda: make_plan(spec), tmp_path / "x")])
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "x").exists()


def test_paths_to_one_file_are_one_input(make_checkpoints, tmp_path):
    _, experts = make_checkpoints(2)
    (tmp_path / "link").symlink_to(tmp_path)
    again = tuple(tmp_path / "link" / path.name for path in experts)
    read = []
    specs = [MergeSpec(method="average", experts=experts), MergeSpec(method="linear", experts=again)]
    merge_all(asked_for(specs, tmp_path / "out"), MergeOptions(progress=read.append))
    assert sum(read) == sum(
        tensor.numel() * tensor.element_size()
        for path in experts
        for tensor in read_state_dict(path).values()
    )


def test_the_bound_on_memory_counts_the_results_of_all(make_checkpoints):
    base, experts = make_checkpoints(2)
    plans = [
        make_plan(MergeSpec(method="average", base=base, experts=experts)),
        make_plan(MergeSpec(method="average", experts=experts)),
    ]
    resident, fixed = 100 << 20, memory_bound._RESERVE + (100 << 20)
    one = memory_bound.bound_memory(plans[:1], 2, None, resident)
    both = memory_bound.bound_memory(plans, 2, None, resident)
    assert one.buffer_bytes == 2 * 4 * 4096 * (3 + 1)
    assert both.buffer_bytes == 2 * 4 * 4096 * (3 + 2)
    with pytest.raises(SpecError, match="merge fewer together"):
        memory_bound.bound_memory(plans, 2, fixed + one.buffer_bytes, resident)


# --- files with lineage, as studies keep them ---


def test_files_are_those_that_torch_writes_with_their_lineage(make_checkpoints, tmp_path):
    base, experts = make_checkpoints(3)
    specs = [MergeSpec(method=name, base=base, experts=experts, seed=3) for name in WITHOUT_DATA]
    specs.append(
        MergeSpec(method="dare", base=base, experts=experts, exclude=("c", "steps"), dtype="float32")
    )
    outs = [tmp_path / "many" / str(i) for i in range(len(specs))]
    lineages = [{"key": str(i), "inputs": {"a": "b"}} for i in range(len(specs))]
    reports = merge_many(specs, outs, lineages=lineages, threads=2)
    for spec, report, lineage in zip(specs, reports, lineages, strict=True):
        alone = merge_checkpoints(spec, tmp_path / "alone", lineage=lineage)
        assert report.path.read_bytes() == alone.path.read_bytes()
        assert (report.digest, report.size_bytes, report.excluded) == (
            alone.digest,
            alone.size_bytes,
            alone.excluded,
        )
        assert report.elapsed_s > 0
        assert verify(report.path).matches
        with open_checkpoint(report.path) as reader:
            assert json.loads(json.dumps(reader.lineage))["key"] == lineage["key"]
    assert sorted(path.name for path in (tmp_path / "many").iterdir()) == sorted(path.name for path in outs)


def test_none_of_the_files_appears_unless_all_are_whole(make_checkpoints, tmp_path):
    base, experts = make_checkpoints(4, (torch.float16,))
    good = MergeSpec(method="average", base=base, experts=experts)
    in_torch = MergeSpec(method="slerp", base=base, experts=experts)
    bad = MergeSpec(method="magmax", base=base, experts=experts, params={"scale": 1e6})
    outs = [tmp_path / "many" / str(i) for i in range(3)]
    with pytest.raises(MethodInputError, match="merged by 'magmax' left the finite numbers"):
        merge_many([good, bad, in_torch], outs)
    assert not list((tmp_path / "many").iterdir())
    merge_many([good, in_torch], outs[:2])
    before = outs[0].read_bytes()
    merge_many([in_torch], outs[:1])
    assert outs[0].read_bytes() == outs[1].read_bytes() != before


def test_an_expert_that_changed_since_it_was_written_is_refused(make_checkpoints, tmp_path):
    base, experts = make_checkpoints(2)
    data = bytearray(experts[1].read_bytes())
    data[-40] ^= 1
    experts[1].write_bytes(data)
    with pytest.raises(
        CheckpointCorruptError, match=r"model2\.safetensors has the digest .* It changed after"
    ):
        merge_many([MergeSpec(method="average", base=base, experts=experts)], [tmp_path / "many" / "out"])
    assert not list((tmp_path / "many").iterdir())


# --- in memory ---


def test_state_dicts_without_files_have_the_same_bytes(make_checkpoints, tmp_path):
    base, experts = make_checkpoints(3)
    before = sorted(tmp_path.iterdir())
    specs = differing_specs(base, experts)
    merged = merge_many_in_memory(specs, threads=2)
    assert sorted(tmp_path.iterdir()) == before
    for spec, one in zip(specs, merged, strict=True):
        alone = merge_checkpoints(spec, tmp_path / "alone")
        wanted = read_state_dict(alone.path)
        assert one.digest == alone.digest
        assert list(one.tensors) == sorted(wanted)
        for name, tensor in wanted.items():
            assert one.tensors[name].dtype == tensor.dtype
            assert torch.equal(one.tensors[name], tensor)


def test_state_dicts_of_one_pass_need_one_reading(make_checkpoints):
    base, experts = make_checkpoints(2)
    counts = []
    for names in (("task_arithmetic",), ONE_PASS):
        read = []
        specs = [MergeSpec(method=name, base=base, experts=experts) for name in names]
        merge_many_in_memory(specs, threads=2, progress=read.append)
        counts.append(sum(read))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("fitting", [0, 1, 2, 100])
def test_merges_in_turn_are_the_same_whatever_fits(fitting, make_checkpoints):
    base, experts = make_checkpoints(2)
    specs = differing_specs(base, experts + experts[:1])
    wanted = merge_many_in_memory(specs)
    given = list(merge_in_turn(specs, memory_bytes=fitting * wanted[0].size_bytes))
    assert [one.digest for one in given] == [one.digest for one in wanted]


def test_merges_that_do_not_fit_together_are_read_for_apart(make_checkpoints, monkeypatch):
    base, experts = make_checkpoints(2)
    specs = [MergeSpec(method=name, base=base, experts=experts) for name in ONE_PASS]
    together = []

    def counted(self):
        together.append(len(self.runs))
        execute(self)

    execute = Executor.run
    monkeypatch.setattr(Executor, "run", counted)
    size = merge_many_in_memory(specs[:1])[0].size_bytes
    list(merge_in_turn(specs, memory_bytes=3 * size))
    assert together == [1, 3, 3, 1]


def test_a_merge_in_turn_is_forgotten_once_it_is_given(make_checkpoints):
    base, experts = make_checkpoints(2)
    specs = [MergeSpec(method=name, base=base, experts=experts) for name in ("average", "magmax")]
    merges = merge_in_turn(specs, memory_bytes=1 << 30)
    first = weakref.ref(next(merges))
    assert first() is None


def test_an_input_that_is_not_what_it_recorded_is_refused_in_memory_too(make_checkpoints):
    base, experts = make_checkpoints(2)
    data = bytearray(experts[1].read_bytes())
    data[-1] ^= 1
    experts[1].write_bytes(data)
    with pytest.raises(CheckpointCorruptError, match="It changed after it was written"):
        merge_many_in_memory([MergeSpec(method="average", base=base, experts=experts)])


def test_every_refusal_is_told(make_checkpoints):
    base, experts = make_checkpoints(2, (torch.float16,))
    specs = [
        MergeSpec(method=name, base=base, experts=experts, params={"scale": 1e6})
        for name in ("magmax", "task_arithmetic")
    ]
    with pytest.raises(MethodInputError) as caught:
        merge_many_in_memory(specs)
    assert "merged by 'magmax'" in str(caught.value)
    assert "merged by 'task_arithmetic'" in str(caught.value)


def test_a_device_shares_the_reading_too(make_checkpoints, tmp_path):
    base, experts = make_checkpoints(3)
    specs = [
        *(MergeSpec(method=name, base=base, experts=experts) for name in ("task_arithmetic", "dare", "ties")),
        MergeSpec(method="average", experts=experts[1:]),
    ]
    options = MergeOptions(threads=2, device="torch:cpu")
    together = merge_all(asked_for(specs, tmp_path / "together"), options)
    for spec, done in zip(specs, together, strict=True):
        alone = merge_to(spec, tmp_path / "alone" / done.path.name, options)
        assert (done.digest, done.arithmetic) == (alone.digest, "torch on the CPU")


def test_seconds_that_a_merge_had_for_itself_are_its_own():
    """Two threads, 10 s in all: 2 s of kernels a thread and 5 s in torch are somebody's, 3 s are shared."""
    runs = [Run(None, None, None, elapsed_s=4.0), Run(None, None, None, alone_s=5.0), Run(None, None, None)]
    assert shares(runs, 10.0, threads=2) == [3.0, 6.0, 1.0]
