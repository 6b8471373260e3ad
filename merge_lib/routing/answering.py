"""Answers to inputs of no data set: by the base, a ConDU state and the prototypes beside it.

A task that is told is answered by its own model. Else the input's nearest tasks, and the base, vote.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.checkpoints import checkpoint_digest, read_state_dict
from merge_lib.errors import CheckpointMismatchError, SpecError, suggest
from merge_lib.routing.portraits import Portrait, Portraits, classes_of
from merge_lib.routing.prototypes import similarities
from merge_lib.routing.settings import RoutingSettings
from merge_lib.routing.voting import logits, voter_weights
from merge_lib.sequence import read_merge
from merge_lib.states import StateFile
from merge_lib.types import StateDict

Texts = Mapping[str, Sequence[str]]  # of each class, by its name
BASE = "base"


class Speaker(Protocol):
    """A model that is asked about inputs of no data set."""

    def inputs(self, batch: Any) -> Tensor:
        """[n, d]: unit features of inputs."""
        ...

    def classes(self, texts: Sequence[Sequence[str]]) -> Tensor:
        """[c, d]: of each class the mean of the unit features of its texts, not brought to length 1."""
        ...


@dataclass(frozen=True)
class Answer:
    """What was said of one input.

    Attributes:
        name: of the class.
        share: of its softmax over the voters' logits, in [0, 1].
        near: task -> how near the input is to its nearest prototype; empty where the task was told.
        voters: tasks, and the base, by how much they counted.
    """

    name: str
    share: float
    near: dict[str, float]
    voters: dict[str, float]


@dataclass(frozen=True)
class Council:
    """The models of a sequence, each made when an input asks for it.

    Args:
        speaker: makes a model that answers of its tensors.
        base: the tensors of the base.
        models: give the tensors of each task's model, in the order of the tasks.
        portraits: of the tasks.
    """

    speaker: Callable[[StateDict], Speaker]
    base: StateDict
    models: Sequence[Callable[[], StateDict]]
    portraits: tuple[Portrait, ...]

    def answer(
        self,
        batch: Any,
        *,
        task: str | None = None,
        classes: Texts | None = None,
        settings: RoutingSettings | None = None,
    ) -> list[Answer]:
        """An answer to each input.

        Args:
            batch: inputs as the speakers take them.
            task: whose inputs these are; None: that is not known, or none of those that were seen.
            classes: that may be answered, with their texts; None: those of the task, or of all tasks.
            settings: who votes, where no task is told.

        Raises:
            SpecError: there is no such task.
        """
        if task is not None:
            return self._told(batch, task, classes)
        names, texts = _listed(classes or classes_of(self.portraits))
        frozen = self.speaker(self.base)
        seen = frozen.inputs(batch)
        near = similarities(seen, [one.prototypes for one in self.portraits])
        asked = settings or RoutingSettings()
        weights = voter_weights(
            near, voters=asked.voters, weights=asked.weights, include_base=asked.include_base
        )
        totals = weights[:, -1:] * logits(seen, frozen.classes(texts))
        for place, model in enumerate(self.models):
            if bool((weights[:, place] > 0).any()):
                totals = totals + weights[:, place, None] * self._said(model(), batch, texts)
        return self._answers(names, totals, near, weights)

    def _told(self, batch: Any, task: str, classes: Texts | None) -> list[Answer]:
        """By the model of that task alone."""
        known = [portrait.task for portrait in self.portraits]
        if task not in known:
            raise SpecError(
                f"There is no model of task '{task}': {suggest(task, known)}. Leave the task out to put inputs to "
                "the vote."
            )
        place = known.index(task)
        names, texts = _listed(classes or classes_of([self.portraits[place]]))
        said = self._said(self.models[place](), batch, texts)
        weights = torch.zeros(len(said), len(known) + 1)
        weights[:, place] = 1.0
        return self._answers(names, said, said.new_zeros(len(said), 0), weights)

    def _said(self, tensors: StateDict, batch: Any, texts: Sequence[Sequence[str]]) -> Float[Tensor, "n c"]:
        model = self.speaker(tensors)
        return logits(model.inputs(batch), model.classes(texts))

    def _answers(self, names: Sequence[str], totals: Tensor, near: Tensor, weights: Tensor) -> list[Answer]:
        tasks = [portrait.task for portrait in self.portraits]
        best = totals.softmax(dim=1).max(dim=1)
        return [
            Answer(
                names[place],
                share,
                dict(zip(tasks, row, strict=False)),
                {voter: weight for voter, weight in zip((*tasks, BASE), counts, strict=True) if weight},
            )
            for place, share, row, counts in zip(
                best.indices.tolist(), best.values.tolist(), near.tolist(), weights.tolist(), strict=True
            )
        ]


def _listed(classes: Texts) -> tuple[list[str], list[Sequence[str]]]:
    return list(classes), list(classes.values())


@contextmanager
def open_council(
    speaker: Callable[[StateDict], Speaker], base: Path, state: Path, portraits: Portraits
) -> Iterator[Council]:
    """The models of a sequence out of what it keeps; inside the `with` statement they are made as they are asked for.

    Args:
        speaker: makes a model that answers of its tensors.
        base: the checkpoint that the sequence began with.
        state: the file that `mergeline fold` wrote, of a method with a model for each task.
        portraits: of the tasks, in the order in which experts were folded in.

    Raises:
        CheckpointMismatchError: base, state and prototypes are not of one sequence.
        CheckpointError: a file is missing or damaged.
        SpecError: the state's method gives one model.
    """
    _check_together(base, state, portraits)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        models = [partial(_decoded, state, base, folder, task) for task in range(len(portraits.tasks))]
        yield Council(speaker, read_state_dict(base), models, portraits.tasks)


def _decoded(state: Path, base: Path, folder: Path, task: int) -> StateDict:
    """The model of one task; its file goes at once."""
    written = read_merge(state, base, folder / "model.safetensors", task=task)
    tensors = read_state_dict(written.path)
    written.path.unlink()
    return tensors


def _check_together(base: Path, state: Path, portraits: Portraits) -> None:
    """Refuse files of several sequences; all faults at once."""
    digest = checkpoint_digest(base)
    with StateFile(state) as file:
        experts, begun_with, method = len(file.history.experts), file.history.base, file.recipe.method
    faults = []
    if begun_with != digest:
        faults.append(f"the state {state} was begun with the base {begun_with}")
    if portraits.base != digest:
        faults.append(f"the prototypes are those that the base {portraits.base} sees")
    if experts != len(portraits.tasks):
        faults.append(
            f"the state holds {experts} experts, but there are prototypes of {len(portraits.tasks)} tasks "
            f"({', '.join(portraits.names)})"
        )
    if faults:
        raise CheckpointMismatchError(
            f"Base {base} ({digest}), state and prototypes are not of one sequence: {'; '.join(faults)}. Give those "
            f"that were kept together after the same task of a sequence by '{method}'."
        )
