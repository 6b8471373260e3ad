"""Which examples a merge no longer answers rightly: answers of base, expert and merge, side by side."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from merge_lib.forgetting.answers import AT_ONCE, EVERY, SEED, Answers
from merge_lib.forgetting.examples import SHOWN, Shown, choose, show
from merge_lib.probe import Naming, Probe, Split

_WORD = pa.dictionary(pa.int32(), pa.string())
ANSWERS = pa.schema(
    [
        ("method", _WORD),
        ("label", _WORD),
        ("task", _WORD),
        (
            "example",
            pa.int64(),
        ),  # where it lies in its split; else its place in the probe's order with seed 0
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
        shown = show(probe, task, chosen, split=split, seed=SEED, size=AT_ONCE, count=EVERY)
        words = _words(probe, task, before, after, base[task])
        tables.append(_table(name, task, (base[task], before, after), words, shown))
    return pa.concat_tables(tables).unify_dictionaries() if tables else ANSWERS.empty_table()


def _words(probe: Probe, task: str, *answers: Answers) -> Sequence[str]:
    """A word for each output."""
    if isinstance(probe, Naming):
        return probe.outputs(task)
    largest = max(
        (int(some.max()) for one in answers for some in (one.truth, one.said) if len(some)), default=-1
    )
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
