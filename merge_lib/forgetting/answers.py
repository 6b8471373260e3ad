"""What a model answers on every example of a task."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from merge_lib.errors import CheckpointCorruptError
from merge_lib.probe import Probe, Split
from merge_lib.types import StateDict

EVERY = 2**31 - 1  # more examples than a task has
AT_ONCE = 256
SEED = 0  # of the order, which is the same for all models


@dataclass(frozen=True)
class Answers:
    """What a model answers on every example of one task, in the probe's order.

    Attributes:
        truth: [n], the right output.
        said: [n], the output with the highest logit.
        sure: [n], the softmax probability of the right output.
        places: [n], where the examples lie in their split, or their order.
    """

    truth: np.ndarray
    said: np.ndarray
    sure: np.ndarray
    places: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """[n], whether each answer is right."""
        return self.said == self.truth

    @property
    def accuracy(self) -> float:
        """Share of right answers; NaN without examples."""
        return float(self.right.mean()) if len(self.said) else math.nan


def answers_of(
    probe: Probe, state: StateDict, tasks: Sequence[str], *, split: Split = "test"
) -> dict[str, Answers]:
    """The answers of one model on each of the tasks."""
    module = probe.module(state)
    return {task: _answers(probe, module, task, split) for task in tasks}


def answers_of_merge(probe: Probe, states: Sequence[StateDict], tasks: Sequence[str]) -> dict[str, Answers]:
    """The answers of a merge: of its one model on all tasks, or of each task's own model on that task."""
    if len(states) == 1:
        return answers_of(probe, states[0], tasks)
    pairs = zip(states, tasks, strict=True)
    return {task: answers_of(probe, state, (task,))[task] for state, task in pairs}


def _answers(probe: Probe, module: Callable, task: str, split: Split) -> Answers:
    found = []
    with torch.inference_mode():
        for batch in probe.batches(task, split=split, count=EVERY, seed=SEED, size=AT_ONCE):
            logits = probe.logits(module, batch, task)  # [b, c]
            sure = logits.double().softmax(1).gather(1, batch.labels[:, None])[:, 0]
            found.append((batch.labels, logits.argmax(1), sure, batch.places))
    labels, said, sure = (
        torch.cat([part[column] for part in found]).numpy() if found else np.zeros(0) for column in range(3)
    )
    known = [part[3] for part in found if part[3] is not None]
    places = torch.cat(known).numpy() if found and len(known) == len(found) else np.arange(len(said))
    return Answers(labels, said, sure, places)


def write_answers(answers: Mapping[str, Answers], path: Path) -> None:
    """As tensors called `task/field`."""
    save_file(
        {
            f"{task}/{one.name}": np.ascontiguousarray(getattr(given, one.name))
            for task, given in answers.items()
            for one in fields(given)
        },
        path,
    )


def read_answers(path: Path, tasks: Sequence[str]) -> dict[str, Answers]:
    """Read what `write_answers` wrote.

    Raises:
        CheckpointCorruptError: the file cannot be read, or has not all of the tasks.
    """
    try:
        arrays = load_file(path)
        return {
            task: Answers(**{one.name: arrays[f"{task}/{one.name}"] for one in fields(Answers)})
            for task in tasks
        }
    except (OSError, SafetensorError, KeyError) as exc:
        raise CheckpointCorruptError(
            f"The answers {path} cannot be read: {exc}. Remove their folder; the next run makes them anew."
        ) from exc
