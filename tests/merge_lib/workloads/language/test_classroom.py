"""Learners on language models: full weights, one adapter for all tasks, a fresh one for each."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from merge_lib.checkpoints import read_state_dict
from merge_lib.errors import SpecError
from merge_lib.recurrent import ReplayItem
from merge_lib.workloads import LanguageConfig
from merge_lib.workloads.learners import OLora, RecurrentKif, Replay
from merge_lib.workloads.learners.classroom import Adapted, Course, Teaching
from merge_lib.workloads.learners.teaching import teach

FACTOR, PRODUCT = {"space": "factor"}, {"space": "product"}
ROUNDS = RecurrentKif(share=0.1, inner_steps=2, outer_steps=1, select_every=0)


@pytest.fixture
def base(tmp_path):
    def made(workload) -> Path:
        return workload.pretrain(tmp_path / "base.safetensors", seed=0, lineage={}).path

    return made


def test_it_can_be_taught_and_says_by_what():
    def settings(**more):
        return LanguageConfig(name="language", **more)

    assert settings().teaching() == "full"
    assert settings(tuning={"kind": "lora", "lora": {"targets": ["q"]}}).teaching() == "adapters"


def test_a_lesson_of_examples_of_two_tasks(make_workload, base):
    workload = make_workload()
    assert isinstance(workload, Teaching)
    room = workload.classroom(base(workload), seed=0)
    items = [ReplayItem("moods", 3), ReplayItem("counting", 0), ReplayItem("moods", 1)]
    expected = [workload.texts[item.task].encoded("train")[item.index] for item in items]
    assert list(room.lesson(items).examples) == expected
    examples = [workload.texts[item.task].snapshot.splits["train"][item.index] for item in items]
    assert room.size_of(items) == sum(len(f"{one.input}{one.target}") for one in examples)
    assert set(room.labels("moods")) == {"glad", "calm", "wild", "dark"}
    assert set(room.labels("copying")) == {""}  # open answers are of one class
    assert room.held_out("moods", 3).size == 3
    assert room.held_out("moods", 1000).size == len(workload.texts["moods"].encoded("validation"))


@pytest.mark.parametrize("lora", [None, FACTOR], ids=["full", "factor"])
@pytest.mark.parametrize("settings", [Replay(share=0.1), ROUNDS], ids=["replay", "rounds"])
def test_a_task_is_learned_and_checkpoints_are_as_those_of_experts(
    make_workload, base, tmp_path, lora, settings
):
    workload = make_workload("t5", ("counting", "moods"), lora)
    start, out = base(workload), tmp_path / "out.safetensors"
    report = teach(workload, settings, Course("moods", ("counting",), (start,), 0), out, lineage={})
    before, after = read_state_dict(start), read_state_dict(out)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert report.taught["memory_examples"] > 0
    again = tmp_path / "again.safetensors"
    same = teach(workload, settings, Course("moods", ("counting",), (start,), 0), again, lineage={})
    assert same.digest == report.digest
    workload.evaluate(after, ["moods"])


@pytest.mark.parametrize("lora", [FACTOR, PRODUCT], ids=["factor", "product"])
def test_fresh_adapters_begin_where_the_start_is_and_are_folded_in(make_workload, base, tmp_path, lora):
    workload = make_workload("llama", ("counting", "moods"), lora)
    start = base(workload)
    first = workload.fine_tune(start, ["counting"], tmp_path / "first.safetensors", seed=0, lineage={}).path
    room = workload.classroom(first, seed=1, is_product=True)
    assert isinstance(room, Adapted)
    before = room.matrices(first)
    assert all(torch.equal(tensor, before[name]) for name, tensor in room.tensors().items())
    assert room.downs.keys() == before.keys()

    out = tmp_path / "second.safetensors"
    teach(workload, OLora(), Course("moods", ("counting",), (start, first), 0), out, lineage={})
    after = room.matrices(out)
    assert after.keys() == before.keys() == read_state_dict(out).keys()
    for name, tensor in after.items():
        assert torch.linalg.matrix_rank(tensor - before[name], rtol=1e-3) <= 2  # of the adapters
    workload.evaluate(read_state_dict(out), ["moods"])


def test_adapters_are_refused_where_all_weights_are_trained(make_workload, base):
    workload = make_workload()
    with pytest.raises(SpecError, match=r"settings train all weights. Set `tuning: {kind: lora"):
        workload.classroom(base(workload), seed=0, is_product=True)


def test_threads_may_open_rooms_at_once(make_workload, base):
    workload = make_workload("t5", ("counting", "moods"), FACTOR)
    start = base(workload)
    with ThreadPoolExecutor(4) as pool:
        rooms = list(pool.map(lambda _: workload.classroom(start, seed=0), range(8)))
    expected = read_state_dict(start)
    for room in rooms:
        assert all(torch.equal(tensor, expected[name]) for name, tensor in room.tensors().items())
