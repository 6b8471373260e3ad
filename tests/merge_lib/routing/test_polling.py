"""Votes of several models, on a workload that is small enough to be looked at."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from merge_lib.routing import BaseView, Poll, RoutingSettings, route
from merge_lib.routing.polling import ask

TASKS = ("first", "second", "third")


@dataclass
class Corners:
    """Points near corners of a space of eight dimensions; a model is a matrix that is applied before the cosine.

    Task k has the classes 2k and 2k + 1, whose texts are the corners themselves. `asked` counts what each model saw.
    """

    noise: float = 0.05
    asked: dict[float, int] = field(default_factory=dict)

    def points(self, task: str, split: str) -> tuple[Tensor, Tensor]:
        labels = torch.arange(12) % 2
        generator = torch.Generator().manual_seed(TASKS.index(task) + 10 * len(split))
        corners = torch.eye(8)[2 * TASKS.index(task) + labels]
        return corners + self.noise * torch.randn(12, 8, generator=generator), labels

    def labels(self, task: str, *, split: str) -> Tensor:
        return self.points(task, split)[1]

    def own_classes(self, task: str) -> Tensor:
        return torch.arange(2)

    def encoder(self, tensors: dict[str, Tensor]) -> "Corner":
        return Corner(self, tensors["weight"])


@dataclass
class Corner:
    of: Corners
    weight: Tensor

    def inputs(self, task: str, *, split: str, rows: Tensor | None = None) -> Tensor:
        points = self.of.points(task, split)[0]
        points = points if rows is None else points[rows]
        name = round(float(self.weight.sum()), 3)
        self.of.asked[name] = self.of.asked.get(name, 0) + len(points)
        return normalize(points @ self.weight, dim=1)

    def classes(self, task: str) -> Tensor:
        return torch.eye(8)[2 * TASKS.index(task) : 2 * TASKS.index(task) + 2] @ self.weight


def expert_of(task: str) -> dict[str, Tensor]:
    """A model that stretches one corner of every other task."""
    weight = torch.eye(8)
    for other in range(len(TASKS)):
        if TASKS[other] != task:
            weight[2 * other, 2 * other] = 1.5
    return {"weight": weight}


BASE = {"weight": torch.eye(8)}


def routed(settings: RoutingSettings, seen=("first", "second"), workload=None, models=None):
    workload = workload or Corners()
    models = models or [lambda task=task: expert_of(task) for task in seen]
    return route(workload, BASE, models, seen, TASKS, settings), workload


def test_known_tasks_are_not_put_to_the_vote():
    found, _ = routed(RoutingSettings())
    assert found.accuracy == {"third": 1.0}
    found, _ = routed(RoutingSettings(known_tasks=False))
    assert found.accuracy == dict.fromkeys(TASKS, 1.0)


def test_inputs_find_their_own_task():
    found, _ = routed(RoutingSettings())
    assert found.right == {"first": 1.0, "second": 1.0}
    assert set(found.chosen) == set(TASKS)
    assert sum(found.chosen["third"].values()) == pytest.approx(1.0)


def test_the_votes_are_those_of_a_plain_loop_over_inputs_and_voters():
    workload = Corners(noise=0.8)
    settings = RoutingSettings(known_tasks=False, voters=1, weights="similarity")
    models = [expert_of("first"), {"weight": torch.eye(8).roll(1, 0)}]
    found, _ = routed(settings, workload=workload, models=[lambda m=m: m for m in models])
    encoders = [workload.encoder(tensors) for tensors in (*models, BASE)]
    seen = [
        BaseView.of(workload, encoders[-1], task, split="train").prototypes() for task in ("first", "second")
    ]
    for task in TASKS:
        right = 0
        for row, label in enumerate(workload.labels(task, split="test")):
            feature = encoders[-1].inputs(task, split="test")[row]
            near = torch.stack([(rows @ feature).max() for rows in seen])
            best = int(near.argmax())
            votes = {best: near[best].clamp(min=0), 2: near[best].clamp(min=0)}
            total = sum(
                weight
                * encoders[voter].inputs(task, split="test")[row]
                @ normalize(encoders[voter].classes(task), dim=1).T
                for voter, weight in votes.items()
            )
            right += int(total.argmax() == label)
        assert found.accuracy[task] == pytest.approx(right / 12)
    assert 0.1 < sum(found.accuracy.values()) / 3 < 1.0  # the loop above was put to the test


def test_a_model_that_nobody_chose_is_never_made():
    def refuse():
        pytest.fail("nobody asked for it")

    workload = Corners()
    models = [lambda: expert_of("first"), refuse]
    near_first = RoutingSettings(known_tasks=True, voters=1)
    view = BaseView.of(workload, workload.encoder(BASE), "first", split="test")
    of_tasks = {"first": view.prototypes(), "second": -view.prototypes()}
    poll = Poll(near_first, of_tasks, {"third": view})
    for voter, model in enumerate(models):
        ask([poll], voter, lambda model=model: workload.encoder(model()))
    assert poll.chosen["third"] == {"first": 1.0, "second": 0.0}
    found, _ = routed(RoutingSettings(voters=0), models=[refuse, refuse])
    assert found.accuracy == {"third": 1.0}  # the base alone


def test_an_input_takes_a_pass_of_each_of_its_voters_and_no_more():
    workload = Corners()
    models = [{"weight": 2 * torch.eye(8)}, {"weight": 3 * torch.eye(8)}]  # told apart by their sums
    routed(RoutingSettings(voters=1), workload=workload, models=[lambda m=m: m for m in models])
    assert workload.asked[16.0] + workload.asked.get(24.0, 0) == 12  # the unseen task's inputs, once each


def test_several_settings_share_the_passes():
    workload = Corners()
    frozen = workload.encoder(BASE)
    views = {task: BaseView.of(workload, frozen, task, split="test") for task in TASKS}
    of_tasks = {task: views[task].prototypes() for task in ("first", "second")}
    settings = [RoutingSettings(), RoutingSettings(weights="similarity"), RoutingSettings(known_tasks=False)]
    together = [Poll(one, of_tasks, views) for one in settings]
    before = sum(workload.asked.values())
    for voter, task in enumerate(of_tasks):
        ask(together, voter, lambda task=task: workload.encoder(expert_of(task)))
    assert sum(workload.asked.values()) - before == 2 * 36
    for poll, one in zip(together, settings, strict=True):
        alone, _ = routed(one)
        assert poll.result().accuracy == alone.accuracy


def test_prototypes_of_a_few_images_or_of_texts_alone():
    workload = Corners()
    frozen = workload.encoder(BASE)
    some = BaseView.of(workload, frozen, "first", split="train", examples=5)
    assert some.inputs.shape == (5, 8)
    assert some.labels.shape == (5,)
    again = BaseView.of(workload, frozen, "first", split="train", examples=5)
    assert torch.equal(some.inputs, again.inputs)
    none = BaseView.of(workload, frozen, "first", split="train", examples=0)
    assert torch.equal(none.prototypes(), torch.eye(8)[:2])
    every = BaseView.of(workload, frozen, "first", split="train", examples=99)
    assert len(every.inputs) == 12


def test_a_view_outlives_its_process(tmp_path):
    workload = Corners()
    view = BaseView.of(workload, workload.encoder(BASE), "first", split="test")
    view.save(tmp_path / "view.safetensors", {"kind": "features"})
    found = BaseView.load(tmp_path / "view.safetensors")
    assert all(torch.equal(getattr(view, name), getattr(found, name)) for name in vars(view))


def test_prototypes_are_of_the_task_s_own_classes_even_if_others_are_answers():
    @dataclass
    class Union(Corners):
        def own_classes(self, task: str) -> Tensor:
            return torch.tensor([1])

    view = BaseView.of(Union(), Corners().encoder(BASE), "first", split="test")
    assert view.prototypes().shape == (1, 8)
    assert float(view.prototypes()[0, 1]) > 0.9
