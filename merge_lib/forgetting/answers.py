"""Which examples a merge no longer answers rightly: answers of base, expert and merge, side by side."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from merge_lib.forgetting.examples import SHOWN, Shown, choose, show
from merge_lib.probe import Naming, Probe, Split
from merge_lib.types import StateDict

EVERY = 2**31 - 1  # more examples than a task has
_AT_ONCE = 256
_SEED = 0  # of the order, which is the same for all models
_WORD = pa.dictionary(pa.int32(), pa.string())
ANSWERS = pa.schema(
    [
        ("method", _WORD),
        ("label", _WORD),
        ("task", _WORD),
        ("example", pa.int64()),  # where it lies in its split; else its place in the probe's order with seed 0
        ("truth", _WORD),  # names of outputs, or their numbers
        ("base", _WORD),
        ("expert", _WORD),
        ("merge", _WORD),
        ("sure", pa.float32()),  # the expert's probability of the right answer
        ("left", pa.float32()),  # the merge's
        ("change", _WORD),  # of `CHANGES`, from the expert to the merge
        ("picture", pa.binary()),  # PNG, of examples that are shown
        ("text", pa.string()),
    ]
)
CHANGES = {
    (True, True): "kept",
    (True, False): "forgotten",
    (False, True): "gained",
    (False, False): "missed",
}


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


def _answers(probe: Probe, module: Callable, task: str, split: Split) -> Answers:
    found = []
    with torch.inference_mode():
        for batch in probe.batches(task, split=split, count=EVERY, seed=_SEED, size=_AT_ONCE):
            logits = probe.logits(module, batch, task)  # [b, c]
            sure = logits.double().softmax(1).gather(1, batch.labels[:, None])[:, 0]
            found.append((batch.labels, logits.argmax(1), sure, batch.places))
    labels, said, sure = (
        torch.cat([part[column] for part in found]).numpy() if found else np.zeros(0) for column in range(3)
    )
    known = [part[3] for part in found if part[3] is not None]
    places = torch.cat(known).numpy() if found and len(known) == len(found) else np.arange(len(said))
    return Answers(labels, said, sure, places)


def compare_answers(
    probe: Probe,
    name: tuple[str, str],
    base: Mapping[str, Answers],
    experts: Mapping[str, Answers],
    merges: Mapping[str, Answers],
    *,
    split: Split = "test",
    count: int = SHOWN,
) -> pa.Table:
    """The answers side by side, a line an example, with pictures or texts of some that were forgotten.

    Args:
        probe: where the answers come from.
        name: method and label of the merge.
        base: the base's answers on each task.
        experts: on each task those of its own expert.
        merges: the merge's; of a method that gives a model for each task, the task's own.
        split: from which they are.
        count: how many forgotten examples of each task are shown at most: those that the expert was surest of.

    Returns:
        A table of `ANSWERS`.
    """
    tables = []
    for task in merges:
        before, after = experts[task], merges[task]
        chosen = choose(before.right & ~after.right, before.sure, before.places, count)
        shown = show(probe, task, chosen, split=split, seed=_SEED, size=_AT_ONCE, count=EVERY)
        words = _words(probe, task, before, after, base[task])
        tables.append(_table(name, task, (base[task], before, after), words, shown))
    return pa.concat_tables(tables).unify_dictionaries() if tables else ANSWERS.empty_table()


def _words(probe: Probe, task: str, *answers: Answers) -> Sequence[str]:
    """A word for each output."""
    if isinstance(probe, Naming):
        return probe.outputs(task)
    largest = max((int(some.max()) for one in answers for some in (one.truth, one.said) if len(some)), default=-1)
    return [str(output) for output in range(largest + 1)]


def _table(
    name: tuple[str, str],
    task: str,
    answers: tuple[Answers, Answers, Answers],
    words: Sequence[str],
    shown: Mapping[int, Shown],
) -> pa.Table:
    base, before, after = answers
    size = len(before.said)
    changes = [CHANGES[pair] for pair in zip(before.right.tolist(), after.right.tolist(), strict=True)]
    columns = {
        "method": [name[0]] * size,
        "label": [name[1]] * size,
        "task": [task] * size,
        "example": before.places,
        "truth": [words[output] for output in before.truth],
        "base": [words[output] for output in base.said],
        "expert": [words[output] for output in before.said],
        "merge": [words[output] for output in after.said],
        "sure": before.sure,
        "left": after.sure,
        "change": changes,
        "picture": [shown[row].picture if row in shown else None for row in range(size)],
        "text": [shown[row].text if row in shown else None for row in range(size)],
    }
    arrays = [
        pa.array(columns[field.name], pa.string()).dictionary_encode()
        if field.type == _WORD
        else pa.array(columns[field.name], field.type)
        for field in ANSWERS
    ]
    return pa.Table.from_arrays(arrays, schema=ANSWERS)


def shares_of(table: pa.Table) -> dict[str, dict[str, float]]:
    """For each task: accuracy before, after and of the base, shares forgotten and gained, and number of examples."""
    found: dict[str, dict[str, float]] = {}
    tasks, truths, bases, changes = (
        np.array(table.column(name).to_pylist(), dtype=object) for name in ("task", "truth", "base", "change")
    )
    for task in dict.fromkeys(tasks.tolist()):
        own = tasks == task
        share = {change: float((changes[own] == change).mean()) for change in CHANGES.values()}
        found[task] = {
            "before": share["kept"] + share["forgotten"],
            "after": share["kept"] + share["gained"],
            "base": float((truths[own] == bases[own]).mean()),
            "forgotten": share["forgotten"],
            "gained": share["gained"],
            "examples": float(own.sum()),
        }
    return found
