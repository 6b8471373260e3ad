"""Ways of training along the sequence, side by side: what each keeps, what it was shown for it, how it fused."""

from collections.abc import Callable, Sequence
from itertools import combinations

from merge_lib.metrics import describe
from merge_lib.report.aggregate import Group, aggregate, learners_of, number, number_text, p_value
from merge_lib.report.layout import UNDEFINED, Cell, Column, Section, Table
from merge_lib.report.sizes import bytes_cell
from merge_lib.results import Taught
from merge_lib.statistics import PairedTest, holm, paired_test

NAMES = {
    "average_accuracy": "OP",
    "backward_transfer": "BWT",
    "fwt_vs_expert": "FWT",
    "forgetting": "Forgetting",
}
COMPARED = ("average_accuracy", "backward_transfer")
KINDS = ("shared", "new", "historical", "redundant")
NORMS = ("inner", "outer", "fused")
LEAD = "One model, trained on task after task; nothing is merged. The leaderboard has these rows beside the merges."
NOTE = (
    "OP: average accuracy after the last task. BWT: mean over the earlier tasks of the accuracy at the end minus that "
    "when the task was learned. FWT: mean over the tasks of the accuracy when it was learned minus that of its expert "
    "alone. In % and points, mean ± half the 95 % interval (Student t). Memory: training examples of earlier tasks "
    "that are in use while the last task is learned. Extra supervision: labelled development examples that decide "
    "which parameters are kept."
)


def section(groups: Sequence[Group], tasks: Sequence[str]) -> Section | None:
    """The tables of the learners; None where the study has none."""
    learners = learners_of(groups)
    if not learners:
        return None
    tables = [_overview(learners, len(tasks)), _differences(learners), _fusions(learners, tasks)]
    return Section("learners", "Learners", [LEAD], [table for table in tables if table is not None])


def _overview(learners: Sequence[Group], size: int) -> Table:
    columns = [Column("Learner", is_numeric=False)]
    columns += [Column(short, None, describe()[name].formula) for name, short in NAMES.items()]
    columns += [
        Column("Examples", "Memory"),
        Column("Size", "Memory", "bytes of the examples as they are stored"),
        Column("Extra supervision", is_numeric=False),
        Column("Seconds", None, "of training on all tasks, mean over the seeds"),
    ]
    rows = [
        [
            Cell(group.label, group.method),
            *(aggregate(group, name).cell() for name in NAMES),
            *_memory(group),
            _supervision(group, size),
            Cell(number(sum(row.elapsed_s for row in group.rows) / len(group.rows))),
        ]
        for group in learners
    ]
    return Table("Learners after the last task", columns, rows, [NOTE])


def _memory(group: Group) -> list[Cell]:
    taught = _last(group)
    if taught is None or not taught.memory_examples:
        return [Cell("none"), Cell("none")]
    return [Cell(str(taught.memory_examples)), bytes_cell(taught.memory_bytes)]


def _supervision(group: Group, size: int) -> Cell:
    taught = _last(group)
    if taught is None or not taught.held_out:
        return Cell("none")
    return Cell(f"{taught.held_out} development examples a task", f"of all {size} tasks at the end")


def _last(group: Group) -> Taught | None:
    return group.rows[0].checkpoints[-1].taught


def _differences(learners: Sequence[Group]) -> Table | None:
    """Each two of the learners, by paired tests over the seeds that both have."""
    pairs = list(combinations(learners, 2))
    if not pairs:
        return None
    found = {name: _tests(pairs, name) for name in COMPARED}
    columns = [Column("First", is_numeric=False), Column("Second", is_numeric=False)]
    for name in COMPARED:
        columns += [
            Column("Difference", NAMES[name], "first minus second, points"),
            Column("p", NAMES[name], "paired t-test over the seeds, Holm's correction over the pairs"),
        ]
    rows = [
        [
            Cell(one.label),
            Cell(other.label),
            *(cell for name in COMPARED for cell in found[name][place]),
        ]
        for place, (one, other) in enumerate(pairs)
    ]
    note = (
        "First minus second in points, mean ± half the 95 % interval (Student t); p with Holm's correction."
    )
    return Table("Each two learners", columns, rows, [note], is_folded=len(pairs) > 10)


def _tests(pairs: Sequence[tuple[Group, Group]], metric: str) -> list[list[Cell]]:
    """Of each pair the difference and its p."""
    tests = [_test(one, other, metric) for one, other in pairs]
    corrected = iter(holm([test.p_value for test in tests if test is not None]))
    return [
        [Cell(UNDEFINED, describe()[metric].undefined_when)] * 2
        if test is None
        else [Cell(number_text(test.difference)), Cell(p_value(next(corrected)), test.reason)]
        for test in tests
    ]


def _test(one: Group, other: Group, metric: str) -> PairedTest | None:
    first, second = one.values(metric), other.values(metric)
    pairs = [
        (value, found)
        for seed, value in first.items()
        if value is not None and (found := second.get(seed)) is not None
    ]
    return paired_test(*zip(*pairs, strict=True)) if pairs else None


def _fusions(learners: Sequence[Group], tasks: Sequence[str]) -> Table | None:
    """What the fusions of each task did, mean over its rounds and the seeds."""
    rows = [
        _fused(group, task, taught)
        for group in learners
        for place, task in enumerate(tasks)
        if (taught := _of_stage(group, place)) and taught[0].fusions
    ]
    if not rows:
        return None
    columns = [Column("Learner", is_numeric=False), Column("Task", is_numeric=False), Column("Fusions")]
    columns += [Column(kind, "Entries, %") for kind in KINDS]
    columns += [Column(name, "Norm of change", "Euclidean, of a round") for name in NORMS]
    note = (
        "Shared: important to both learners; new: to the inner one, which sees the task; historical: to the outer one, "
        "which sees the memory; redundant: to neither. Every fusion by itself is in the task's record."
    )
    return Table("Fusions", columns, rows, [note], is_folded=True)


def _of_stage(group: Group, place: int) -> list[Taught]:
    refs = [row.checkpoints[place] for row in group.rows if place < len(row.checkpoints)]
    return [ref.taught for ref in refs if ref.taught is not None]


def _fused(group: Group, task: str, taught: Sequence[Taught]) -> list[Cell]:
    cells = [_mean(taught, lambda one, kind=kind: one.cells.get(kind)) for kind in KINDS]
    norms = [_mean(taught, lambda one, name=name: one.norms.get(name)) for name in NORMS]
    return [
        Cell(group.label),
        Cell(task),
        Cell(str(taught[0].fusions)),
        *(Cell(UNDEFINED, "soft weights") if mean is None else Cell(number(100 * mean)) for mean in cells),
        *(Cell(UNDEFINED) if mean is None else Cell(f"{mean:.3g}") for mean in norms),
    ]


def _mean(taught: Sequence[Taught], read: Callable[[Taught], float | None]) -> float | None:
    values = [value for one in taught if (value := read(one)) is not None]
    return sum(values) / len(values) if values else None
