"""Replay, O-LoRA, and how a course becomes a checkpoint."""

from pathlib import Path

import pytest
import torch

from merge_lib.checkpoints import read_state_dict, verify, write_state_dict
from merge_lib.errors import SpecError, UnknownMethodError
from merge_lib.workloads import learners
from merge_lib.workloads.learners import OLora, RecurrentKif, Replay, Sequential
from merge_lib.workloads.learners.mixing import learn as learn_mixed
from merge_lib.workloads.learners.orthogonality import Apart, row_space
from merge_lib.workloads.learners.orthogonality import learn as learn_apart
from merge_lib.workloads.learners.teaching import teach


class School:
    """A workload as far as `teach` needs one."""

    def __init__(self, room):
        self.room = room

    def classroom(self, start: Path, *, seed: int, is_product: bool = False):
        return self.room


def test_the_first_task_is_ordinary_for_all_and_every_task_for_one():
    assert [
        [one().is_ordinary(place) for place in (0, 1)] for one in (Sequential, Replay, OLora, RecurrentKif)
    ] == [
        [True, True],
        [True, False],
        [True, False],
        [True, False],
    ]


def test_unknown_learners_are_told_with_the_nearest_name():
    with pytest.raises(UnknownMethodError, match=r"no learner 'reply': did you mean 'replay'"):
        learners.get("reply")


def test_a_name_stands_for_one_learner():
    with pytest.raises(SpecError, match="Two learners are named 'replay'"):

        class Other(learners.LearnerSettings):
            name = "replay"
            title = "Another"


def test_every_batch_of_replay_has_examples_of_the_task_and_of_the_memory(make_room, make_course):
    room = make_room(size=20, steps=None, epochs=2)
    learned = learn_mixed(room, make_course(), Replay(share=0.3, mix=0.5))
    assert {item.task for item in learned.memory} == {"one"}
    assert sorted(room.labels("one")[item.index] for item in learned.memory) == [0, 0, 1, 1, 2, 2]
    (lesson,) = room.lessons
    assert [len(rows) for rows in lesson.seen] == [
        12,
        12,
        6,
    ] * 2  # 8, 8 and 4 of the task, half as many of memory
    for rows, count in zip(lesson.seen, [8, 8, 4] * 2, strict=True):
        assert all(row < 20 for row in rows[:count])
        assert all(20 <= row < 26 for row in rows[count:])
        assert len(set(rows)) == len(rows)  # the memory has room for the batch: none twice
    assert sorted(row for rows in lesson.seen[:3] for row in rows if row < 20) == list(range(20))


def test_a_memory_smaller_than_its_part_of_a_batch_comes_round_again(make_room, make_course):
    room = make_room(size=20, steps=2)
    learn_mixed(room, make_course(), Replay(share=0.05, mix=1.0))  # one of each of three classes
    for rows in room.lessons[0].seen:
        assert sorted(rows[8:][place] for place in (0, 1, 2)) == [20, 21, 22]
        assert len(rows) == 16


def test_replay_is_repeatable_and_goes_on_after_a_kill(make_room, make_course, tmp_path):
    whole, again, other, killed, resumed = (make_room(steps=24, save_every=5) for _ in range(5))
    learn_mixed(whole, make_course(), Replay(share=0.2))
    learn_mixed(again, make_course(), Replay(share=0.2))
    learn_mixed(other, make_course(seed=1), Replay(share=0.2))

    def stop(done, _total):
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn_mixed(killed, make_course(saved=tmp_path, progress=stop), Replay(share=0.2))
    assert learn_mixed(resumed, make_course(saved=tmp_path), Replay(share=0.2)).trained.resumed_at == 20
    expected = whole.values()
    for room, is_same in ((again, True), (resumed, True), (other, False)):
        assert all(torch.equal(value, expected[name]) for name, value in room.values().items()) == is_same


def test_the_rows_of_a_change_span_its_row_space():
    down = torch.tensor([[3.0, 0.0, 4.0, 0.0], [0.0, 2.0, 0.0, 0.0]])
    up = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    basis = row_space(up @ down, rank=3)
    assert basis.shape == (2, 4)
    torch.testing.assert_close(basis @ basis.T, torch.eye(2))
    torch.testing.assert_close(down @ basis.T @ basis, down)
    assert row_space(torch.zeros(5, 4), rank=3).shape == (0, 4)


def test_the_penalty_is_the_sum_of_absolute_products(make_room, make_course):
    room = make_room()
    room.model.down.data = torch.tensor([[1.0, -2.0, 0, 0, 0, 0], [0.0, 3.0, 0, 0, 0, 5.0]])
    basis = torch.eye(6)[:2]
    lesson = Apart(room.lesson(make_course().own(room)), 0.5, room.downs, {"weight": basis})
    assert lesson.penalty().item() == 1.0 + 2.0 + 3.0
    batch = lesson.batch(torch.arange(4), torch.Generator())
    plain = lesson.lesson.loss(room.model, batch)
    assert lesson.loss(room.model, batch).item() == pytest.approx(plain.item() + 0.5 * 6.0)


@pytest.mark.parametrize(("weight", "is_apart"), [(0.0, False), (5.0, True)])
def test_o_lora_turns_the_adapter_away_from_what_earlier_tasks_changed(
    make_room, make_course, tmp_path, weight, is_apart
):
    room = make_room(steps=150, learning_rate=2e-2)
    base, after = torch.zeros(3, 6), torch.zeros(3, 6)
    after[0, 0] = 2.0
    for name, tensor in (("base", base), ("after", after)):
        write_state_dict(tmp_path / name, {"weight": tensor}, lineage={})
    course = make_course(checkpoints=(tmp_path / "base", tmp_path / "after"))
    learn_apart(room, course, OLora(weight=weight))
    overlap = room.model.down[:, 0].norm() / room.model.down.norm()
    assert (overlap < 0.05) == is_apart


def test_o_lora_refuses_a_room_without_adapters(make_room, make_course, monkeypatch):
    room = make_room()
    monkeypatch.delattr(type(room), "downs")
    with pytest.raises(SpecError, match="this model has none"):
        learn_apart(room, make_course(), OLora())


def test_a_course_becomes_a_checkpoint_and_says_what_it_was_shown(make_room, make_course, tmp_path):
    room, out = make_room(), tmp_path / "model.safetensors"
    settings = RecurrentKif(share=0.2, inner_steps=5, outer_steps=1, select_examples=7)
    report = teach(School(room), settings, make_course(), out, lineage={"seed": 0})
    assert verify(out).digest == report.digest
    assert torch.equal(read_state_dict(out)["weight"], room.model.folded())
    assert report.taught["memory_examples"] == 8
    assert report.taught["memory_bytes"] == 200
    assert (report.taught["held_out"], report.taught["fusions"]) == (7, 4)
    assert sum(report.taught["cells"].values()) == pytest.approx(1.0)
    assert set(report.fusions[0]) == {
        *("inner_threshold", "outer_threshold", "inner_norm", "outer_norm", "fused_norm"),
        *("shared", "new", "historical", "redundant"),
    }
    assert report.steps == 20 + 4
    assert report.validation_accuracy > 0.5


def test_a_workload_without_a_classroom_is_refused(make_course, tmp_path):
    with pytest.raises(SpecError, match=r"object has no `classroom`, so 'replay' cannot train"):
        teach(object(), Replay(), make_course(), tmp_path / "out", lineage={})
