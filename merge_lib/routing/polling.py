"""Votes of several models on the inputs of tasks: who is asked follows from the base alone.

Models come one after another. Each is asked about all tasks at once, and only about inputs that chose it: one of them
is in memory at a time, and an input takes as many passes as it has voters, and one of the base.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from merge_lib.probe import Split
from merge_lib.routing.encoder import Encoder, Routing
from merge_lib.routing.prototypes import similarities
from merge_lib.routing.settings import RoutingSettings
from merge_lib.routing.view import BaseView
from merge_lib.routing.voting import logits, voter_weights
from merge_lib.types import StateDict


@dataclass(frozen=True)
class Routed:
    """How a vote went.

    Attributes:
        accuracy: of each task that was put to the vote, in [0, 1].
        chosen: task -> task that was seen -> share of the inputs that are nearest to its prototypes; of all tasks,
            whether they were put to the vote or not.
    """

    accuracy: dict[str, float]
    chosen: dict[str, dict[str, float]]

    @property
    def right(self) -> dict[str, float]:
        """Of each task that was seen the share of its inputs that are nearest to its own prototypes."""
        return {task: shares[task] for task, shares in self.chosen.items() if task in shares}


@dataclass(frozen=True)
class _Ballot:
    """The votes on one task's inputs: weights [n, t+1] of the voters, the base last, and sums of logits [n, c]."""

    weights: Float[Tensor, "n voters"]
    totals: Float[Tensor, "n c"]

    def asks(self, voter: int) -> Bool[Tensor, " n"]:
        return self.weights[:, voter] > 0

    def count(self, voter: int, rows: Tensor, said: Tensor) -> None:
        """Add what a voter says, [r, c], of these inputs; it counts as much as the inputs give it."""
        self.totals.index_add_(0, rows, self.weights[rows, voter, None] * said)


@dataclass(frozen=True)
class Poll:
    """The votes on the inputs of some tasks under one setting.

    Args:
        settings: who votes.
        of_tasks: the prototypes of each task that was seen, in order.
        views: what the base sees of every task.
    """

    settings: RoutingSettings
    of_tasks: Mapping[str, Float[Tensor, "_ d"]]
    views: Mapping[str, BaseView]
    ballots: dict[str, _Ballot] = field(default_factory=dict)
    chosen: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for task, view in self.views.items():
            similarity = similarities(view.inputs, list(self.of_tasks.values()))
            first = torch.bincount(similarity.argmax(dim=1), minlength=len(self.of_tasks))
            shares = (first / max(len(similarity), 1)).tolist()
            self.chosen[task] = dict(zip(self.of_tasks, shares, strict=True))
            if self.settings.votes and not (self.settings.known_tasks and task in self.of_tasks):
                self.ballots[task] = self._begun(view, similarity)

    def asks(self, voter: int) -> bool:
        """Whether an input wants to hear the model of that task."""
        return any(bool(ballot.asks(voter).any()) for ballot in self.ballots.values())

    def result(self) -> Routed:
        """How it went, once every model that is asked for was asked."""
        accuracy = {
            task: float((ballot.totals.argmax(dim=1) == self.views[task].labels).double().mean())
            for task, ballot in self.ballots.items()
        }
        return Routed(accuracy, self.chosen)

    def _begun(self, view: BaseView, similarity: Tensor) -> _Ballot:
        """The ballot with the votes of the base."""
        asked = self.settings
        weights = voter_weights(
            similarity, voters=asked.voters, weights=asked.weights, include_base=asked.include_base
        )
        ballot = _Ballot(weights, view.inputs.new_zeros(len(view.inputs), len(view.classes)))
        rows = ballot.asks(-1).nonzero()[:, 0]
        ballot.count(-1, rows, logits(view.inputs[rows], view.classes))
        return ballot


def ask(polls: Sequence[Poll], voter: int, encoder: Callable[[], Encoder], *, split: Split = "test") -> None:
    """Ask the model of one task on behalf of several polls, about each input once at most.

    Args:
        polls: on the same tasks.
        voter: the place of the model's task among those seen.
        encoder: gives the model; not called where no input asks it.
        split: of the tasks' inputs.
    """
    if not any(poll.asks(voter) for poll in polls):
        return
    model = encoder()
    for task in dict.fromkeys(task for poll in polls for task in poll.ballots):
        ballots = [poll.ballots[task] for poll in polls if task in poll.ballots]
        asking = torch.stack([ballot.asks(voter) for ballot in ballots]).any(dim=0)  # [n]
        if not asking.any():
            continue
        rows = asking.nonzero()[:, 0]
        said = logits(model.inputs(task, split=split, rows=rows), model.classes(task))
        for ballot in ballots:
            ballot.count(voter, rows, said)


def route(
    workload: Routing,
    base: StateDict,
    models: Sequence[Callable[[], StateDict]],
    seen: Sequence[str],
    tasks: Sequence[str],
    settings: RoutingSettings,
    *,
    split: Split = "test",
) -> Routed:
    """Answer the tasks' inputs by the models of those that were seen.

    Args:
        workload: of the tasks.
        base: the tensors that the models were merged upon.
        models: of each task seen, in order; each is called once at most.
        seen: the tasks that there are models for.
        tasks: those whose inputs are to be answered.
        settings: who votes.
        split: of the tasks' inputs.
    """
    frozen, images = workload.encoder(base), settings.images
    shown = {"split": images.split, "examples": images.examples}
    of_tasks = {task: BaseView.of(workload, frozen, task, **shown).prototypes() for task in seen}
    views = {task: BaseView.of(workload, frozen, task, split=split) for task in tasks}
    poll = Poll(settings, of_tasks, views)
    for voter, model in enumerate(models):
        ask([poll], voter, lambda model=model: workload.encoder(model()), split=split)  # type: ignore[misc]
    return poll.result()
