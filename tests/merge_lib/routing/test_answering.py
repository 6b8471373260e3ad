"""Answers out of what a sequence keeps: base, state and prototypes."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from merge_lib import MergeSpec
from merge_lib.checkpoints import write_state_dict
from merge_lib.errors import CheckpointError, CheckpointMismatchError, SpecError
from merge_lib.routing import RoutingSettings
from merge_lib.routing.answering import open_council
from merge_lib.routing.portraits import Portrait, Portraits, classes_of
from merge_lib.sequence import fold_experts

EYE = torch.eye(4)
FIRST = Portrait("first", ("a", "b"), (("0",), ("1",)), EYE[:2])
SECOND = Portrait("second", ("c", "d"), (("2",), ("3",)), EYE[2:])


@dataclass(frozen=True)
class Turned:
    """A model: a matrix that inputs go through; a text is the name of a corner."""

    weight: Tensor

    def inputs(self, batch: Tensor) -> Tensor:
        return normalize(batch @ self.weight, dim=1)

    def classes(self, texts) -> Tensor:
        return torch.stack([EYE[[int(text) for text in one]].mean(dim=0) for one in texts])


def speaker(tensors) -> Turned:
    return Turned(tensors["weight"])


@pytest.fixture
def kept(tmp_path) -> tuple[Path, Path, Portraits]:
    """Base, state and prototypes of two tasks; the experts swap corners of their own task."""
    base = tmp_path / "base.safetensors"
    digest = write_state_dict(base, {"weight": EYE}, lineage={}).digest
    experts = []
    for name, order in (("first", [1, 0, 2, 3]), ("second", [0, 1, 3, 2])):
        experts.append(tmp_path / f"{name}.safetensors")
        write_state_dict(experts[-1], {"weight": EYE[order]}, lineage={})
    state = tmp_path / "state.safetensors"
    fold_experts(MergeSpec(method="condu", base=base, experts=tuple(experts)), state)
    for path in experts:
        path.unlink()  # the state is enough
    return base, state, Portraits(digest, {"name": "corners"}, (FIRST, SECOND))


def test_prototypes_outlive_their_process_task_by_task(kept, tmp_path):
    *_, portraits = kept
    path = tmp_path / "prototypes.safetensors"
    one = Portraits(portraits.base, portraits.workload).with_task(FIRST)
    one.save(path)
    two = Portraits.load(path).with_task(SECOND)
    two.save(path)
    found = Portraits.load(path)
    assert found.names == ("first", "second")
    assert torch.equal(found.tasks[1].prototypes, SECOND.prototypes)
    assert replace(found.tasks[0], prototypes=EYE) == replace(FIRST, prototypes=EYE)
    assert (found.base, found.workload, found.size_bytes) == (portraits.base, portraits.workload, 2 * 2 * 16)
    with pytest.raises(CheckpointMismatchError, match="Task 'first' is there already; known: first, second"):
        found.with_task(FIRST)


def test_a_told_task_is_answered_by_its_own_model(kept):
    base, state, portraits = kept
    with open_council(speaker, base, state, portraits) as council:
        answers = council.answer(EYE[:2], task="first")
        assert [answer.name for answer in answers] == ["b", "a"]  # its expert swaps them
        assert [answer.voters for answer in answers] == [{"first": 1.0}] * 2
        assert answers[0].near == {}
        assert 0.99 < answers[0].share <= 1.0
        others = council.answer(EYE[:1], task="second", classes={"a": ["0"], "b": ["1"]})
        assert [answer.name for answer in others] == ["a"]
        with pytest.raises(SpecError, match="no model of task 'frist': did you mean 'first'"):
            council.answer(EYE[:1], task="frist")


def test_an_input_that_says_nothing_asks_the_tasks_that_it_is_near_to(kept):
    base, state, portraits = kept
    with open_council(speaker, base, state, portraits) as council:
        alone = RoutingSettings(voters=1, include_base=False)
        answers = council.answer(EYE, settings=alone)
        assert [answer.name for answer in answers] == ["b", "a", "d", "c"]
        assert [list(answer.voters) for answer in answers] == [["first"]] * 2 + [["second"]] * 2
        assert answers[0].near == {"first": 1.0, "second": 0.0}
        by_base = council.answer(EYE, settings=RoutingSettings(voters=0))
        assert [(one.name, one.voters) for one in by_base] == [(name, {"base": 1.0}) for name in "abcd"]
        everyone = council.answer(EYE[:1])
        assert everyone[0].voters == pytest.approx(dict.fromkeys(("first", "second", "base"), 1 / 3))


def test_models_that_nobody_asks_are_not_made(kept):
    base, state, portraits = kept

    def refuse():
        pytest.fail("nobody asked for it")

    with open_council(speaker, base, state, portraits) as council:
        first = replace(council, models=[council.models[0], refuse])
        answers = first.answer(EYE[:1], settings=RoutingSettings(voters=1))
        assert set(answers[0].voters) == {"first", "base"}


def test_files_of_several_sequences_are_refused_with_all_that_is_wrong(kept):
    base, state, _ = kept
    fewer = Portraits("xxh3:other", {}, (FIRST,))
    with (
        pytest.raises(CheckpointMismatchError, match="are not of one sequence") as caught,
        open_council(speaker, base, state, fewer),
    ):
        pass
    assert "that the base xxh3:other sees" in str(caught.value)
    assert "holds 2 experts, but there are prototypes of 1 tasks (first)" in str(caught.value)
    with pytest.raises(CheckpointError, match="holds no prototypes of format 1"):
        Portraits.load(base)


def test_a_class_of_two_tasks_has_the_texts_of_both():
    other = Portrait("other", ("a",), (("0", "2"),), EYE[:1])
    assert classes_of([FIRST, other]) == {"a": ("0", "2"), "b": ("1",)}
