"""What each named level of an axis does to every merge: differences from the first level, over the same seeds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from merge_lib.report.aggregate import Group, find, gather, merges_of, number, p_value
from merge_lib.report.findings import ALPHA
from merge_lib.report.layout import UNDEFINED, Cell, Column, Table
from merge_lib.statistics import PairedTest, holm, paired_test
from merge_lib.sweep_table import MeasuredCell

NOTE = (
    "After the last task, in points: the level less the first one, mean ± half the 95 % interval (Student t) over the "
    "seeds that both have. The tests are of the average accuracy, paired, with Holm's correction over the merges of a "
    "level; effect size: Cohen's d of the differences."
)
FOLDED = 60  # rows from which on a table is folded


@dataclass(frozen=True)
class Shift:
    """One merge at one level against the same merge at the first.

    Attributes:
        average: the test of the average accuracy, the level less the first one.
        tasks: of each task's accuracy the difference, mean over the seeds.
        p_holm: of `average`, corrected over the merges of the level.
    """

    held: str
    level: str
    group: Group
    average: PairedTest
    tasks: Mapping[str, float]
    p_holm: float | None = None

    @property
    def verdict(self) -> str:
        """Whether a test tells the level from the first one, and which is better."""
        if self.p_holm is None or self.p_holm > ALPHA:
            return "not distinguishable"
        return "better" if self.average.difference.mean > 0 else "worse"


def shifts(lines: Mapping[str, Mapping[str, MeasuredCell]]) -> list[Shift]:
    """Every merge at every level but the first.

    Args:
        lines: by the levels of all other axes: the cells by level, the first one in front.
    """
    found = []
    for held, cells in lines.items():
        first, *others = cells
        for level in others:
            found += _corrected(list(_shifts(held, level, cells[first], cells[level])))
    return found


def _shifts(held: str, level: str, first: MeasuredCell, other: MeasuredCell) -> Iterator[Shift]:
    known = merges_of(gather(first.results))
    tasks = [task for task in other.results.tasks if task in first.results.tasks]
    for group in merges_of(gather(other.results)):
        if (before := find(known, group.label, group.regime)) is None:
            continue
        old, new = before.values("average_accuracy"), group.values("average_accuracy")
        seeds = [seed for seed in new if new[seed] is not None and old.get(seed) is not None]
        if seeds:
            test = paired_test([float(new[s] or 0.0) for s in seeds], [float(old[s] or 0.0) for s in seeds])
            apart = {task: _last(group, other, task) - _last(before, first, task) for task in tasks}
            yield Shift(held, level, group, test, apart)


def _last(group: Group, cell: MeasuredCell, task: str) -> float:
    """Mean accuracy on a task after the last one."""
    values = [row.accuracy[-1][cell.results.tasks.index(task)] for row in group.rows]
    return sum(values) / len(values)


def _corrected(found: Sequence[Shift]) -> list[Shift]:
    corrected = holm([one.average.p_value for one in found])
    return [
        Shift(one.held, one.level, one.group, one.average, one.tasks, p)
        for one, p in zip(found, corrected, strict=True)
    ]


def shift_table(axis: str, first: str, found: Sequence[Shift]) -> Table:
    """A row for each level and merge."""
    held = any(one.held for one in found)
    tasks = list(dict.fromkeys(task for one in found for task in one.tasks))
    texts = [*(["Held"] if held else []), axis, "Method", "Experts"]
    columns = [Column(text, is_numeric=False) for text in texts]
    columns += [Column("Average"), Column("Verdict", is_numeric=False)]
    columns += [
        *(Column(task, "Difference by task") for task in tasks),
        Column("p (Holm)"),
        Column("Effect size"),
    ]
    rows = [_row(one, tasks, has_held=held) for one in found]
    title = f"{axis}: each level against {first}"
    return Table(title, columns, rows, [NOTE], is_folded=len(rows) > FOLDED)


def _row(one: Shift, tasks: Sequence[str], *, has_held: bool) -> list[Cell]:
    difference, effect = one.average.difference, one.average.effect_size
    half = "" if difference.half_width is None else f" ± {number(difference.half_width * 100)}"
    named = [*([one.held] if has_held else []), one.level, one.group.label, one.group.regime or "any"]
    return [
        *(Cell(text) for text in named),
        Cell(f"{number(difference.mean * 100)}{half}", one.average.method),
        Cell(one.verdict),
        *(Cell(number(one.tasks[task] * 100) if task in one.tasks else UNDEFINED) for task in tasks),
        Cell(p_value(one.p_holm)),
        Cell(UNDEFINED if effect is None else number(effect)),
    ]
