"""The leaderboard: what each merge reaches, what it costs and what it needs, only likes beside likes.

Rows stand on boards: a row that was tuned on validation data, one that has seen the inputs it is judged by, and one
that needs to be told the task each compete with their own kind. Marks and tests are those of a board.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from merge_lib.metrics import describe
from merge_lib.report.aggregate import (
    Aggregate,
    Board,
    Group,
    aggregate,
    boards_of,
    compare,
    marked,
    merges_of,
    number,
    p_value,
    ranked_of,
)
from merge_lib.report.layout import UNDEFINED, Cell, Column, Section, Table
from merge_lib.report.sizes import bytes_cell, size_cell
from merge_lib.results import Row, StudyResults
from merge_lib.statistics import mean_interval

METRICS = ("average_accuracy", "worst_task_accuracy", "forgetting")
MANY_TASKS = 6  # from here on the accuracy along the sequence is a table, too
STAGES_SHOWN = 6
DATA = {"none": "none", "unlabelled": "inputs", "labelled": "labels", "test inputs": "test inputs"}
LEAD = (
    "Every merge and every learner after the last task, in the company of its kind. A tuned row has used labelled "
    "validation data, a transductive one the inputs that it is judged by, and a model for each task must be told "
    "which task an input is of."
)
NOTES = (
    "In %, mean ± half the 95 % interval over the seeds (Student t). Bold: told apart from every other row of its "
    "board by a paired test over the seeds; ≈: not distinguishable from the best mean of its board; p: against that "
    "best, with Holm's correction over the board.",
    "Model: bytes of what answers, masks included. To go on: what must be kept to merge the next expert, or to learn "
    "the next task. Seconds: of one merge, mean over all, with what was learned from data for it (a search's own time "
    "stands below); of a learner, of training on one task.",
)


@dataclass(frozen=True)
class Standing:
    """One row of a board."""

    group: Group
    cells: dict[str, Cell]  # by metric
    p_holm: (
        float | None
    )  # against the best of the board; None for the best itself, or where no test is possible
    is_best: bool

    @property
    def seconds(self) -> float:
        """Of one merge, or one task of a learner, mean over stages and seeds, with what was learned for it."""
        rows = self.group.rows
        return sum(_seconds(row) for row in rows) / len(rows)


def standings(groups: Sequence[Group]) -> list[tuple[Board, list[Standing]]]:
    """The boards that have rows; on each the best average accuracy first."""
    known = describe()
    found = []
    for board, members in boards_of(ranked_of(groups)):
        columns = {name: marked(members, known[name]) for name in METRICS}
        best = compare(members, known["average_accuracy"])
        rows = []
        for group in sorted(members, key=_by_accuracy):
            versus = best.versus.get(group.name) if best else None
            cells = {name: column[group.name].cell() for name, column in columns.items()}
            is_best = best is not None and best.name == group.name
            rows.append(Standing(group, cells, versus.p_holm if versus else None, is_best))
        found.append((board, rows))
    return found


def section(groups: Sequence[Group], tasks: Sequence[str]) -> Section | None:
    """A table for each board, what searches found, and, of a long sequence, how accuracy goes along it."""
    boards = standings(groups)
    if not boards:
        return None
    tables = [_board(board, rows) for board, rows in boards]
    tables[-1].notes.extend(NOTES)
    others = [_found(groups), _along(groups, len(tasks))]
    return Section("leaderboard", "Leaderboard", [LEAD], [*tables, *(table for table in others if table)])


def as_json(results: StudyResults, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """One entry a row, plain values: means, half intervals, p, costs and needs."""
    return [
        {
            "board": board.title,
            "label": one.group.label,
            "method": one.group.method,
            "regime": one.group.regime,
            "seeds": [row.seed for row in one.group.rows],
            "tasks": len(results.tasks),
            **{name: _plain(one.group, name) for name in METRICS},
            "is_best": one.is_best,
            "mark": one.cells["average_accuracy"].mark,
            "p_holm": one.p_holm,
            "size_bytes": one.group.rows[0].checkpoints[-1].size_bytes,
            "state_bytes": one.group.rows[0].checkpoints[-1].state_bytes,
            "seconds_a_merge": one.seconds,
            **({} if one.group.facts is None else vars(one.group.facts)),
        }
        for board, rows in standings(groups)
        for one in rows
    ]


def data_cell(group: Group) -> Cell:
    """Which data the row was shown."""
    facts = group.facts
    if facts is None:
        return Cell(UNDEFINED, "not recorded by the version that wrote these results")
    if facts.replays:
        return Cell("memory", "training examples of earlier tasks")
    ahead = "its coefficients were found with experts that had not arrived yet" if facts.looks_ahead else None
    return Cell(DATA[facts.data], ahead)


def seconds_text(seconds: float) -> str:
    """With as many digits as tell something."""
    return number(seconds, 3 if seconds < 1 else 1)


def _board(board: Board, rows: Sequence[Standing]) -> Table:
    known = describe()
    columns = [Column("Method", is_numeric=False), Column("Experts", is_numeric=False)]
    arrows = {name: "↑" if known[name].higher_is_better else "↓" for name in METRICS}
    columns += [
        Column(f"{known[name].title}\u00a0{arrows[name]}", None, known[name].formula) for name in METRICS
    ]
    columns += [
        Column(
            "p", None, "average accuracy against the best of this board, paired t-test, Holm's correction"
        ),
        Column("Model", None, "bytes of what answers, masks included"),
        Column("To go on", None, "what must be kept to merge the next expert, or to learn the next task"),
        Column("Seconds", None, "of one merge, with what was learned from data for it"),
        Column("Data", is_numeric=False),
    ]
    return Table(board.title, columns, [_line(one) for one in rows])


def _line(one: Standing) -> list[Cell]:
    group = one.group
    last = group.rows[0].checkpoints[-1]
    model = bytes_cell(last.size_bytes) if last.path is None else size_cell(last)
    return [
        Cell(group.label, group.method),
        Cell(group.regime or UNDEFINED),
        *one.cells.values(),
        Cell("best", "the best mean of its board") if one.is_best else Cell(p_value(one.p_holm)),
        model,
        _state(group),
        Cell(seconds_text(one.seconds), _parts(group)),
        data_cell(group),
    ]


def _state(group: Group) -> Cell:
    last = group.rows[0].checkpoints[-1]
    if group.kind == "learner":
        memory = last.taught.memory_bytes if last.taught else 0
        kept = bytes_cell(last.size_bytes + memory)
        return Cell(kept.text, f"the model, and {memory} bytes of examples")
    state_bytes = last.state_bytes
    if state_bytes is None or (group.facts is not None and not group.facts.folds):
        return Cell("all experts", "the next merge needs every expert again")
    return bytes_cell(state_bytes)


def _parts(group: Group) -> str:
    if group.kind == "learner":
        return "training on one task"
    stages = sum(len(row.checkpoints) for row in group.rows)
    merging = sum(row.elapsed_s for row in group.rows) / stages
    learning = sum(sum(_learning(row).values()) for row in group.rows) / stages
    return f"{merging:.4f} s merging, {learning:.4f} s learning from data"


def _seconds(row: Row) -> float:
    return (row.elapsed_s + sum(_learning(row).values())) / max(len(row.checkpoints), 1)


def _learning(row: Row) -> dict[str, float]:
    """Seconds of all that the row's merges learned; what several have in common once."""
    return {record: seconds for ref in row.checkpoints for record, seconds in ref.learning.items()}


def _found(groups: Sequence[Group]) -> Table | None:
    """Each search: what it found, and what validation promised against what the test split gave."""
    rows = [
        [
            Cell(group.label, ref.search.record),
            Cell(group.regime or UNDEFINED),
            Cell(str(row.seed)),
            Cell(str(stage), "the first stage that uses these coefficients"),
            Cell(str(ref.search.trials)),
            Cell(number(100 * ref.search.objective), f"over the {ref.search.experts} tasks searched on"),
            Cell(number(ref.search.elapsed_s), f"{ref.search.elapsed_s:.4f} s of merging in its trials"),
            Cell(", ".join(f"{name} {_short(value)}" for name, value in ref.search.values.items())),
        ]
        for group in merges_of(groups)
        for row in group.rows
        for stage, ref in _searches(row)
        if ref.search is not None
    ]
    if not rows:
        return None
    columns = [
        Column("Method", is_numeric=False),
        Column("Experts", is_numeric=False),
        Column("Seed"),
        Column("From stage"),
        Column("Trials"),
        Column("Validation", None, "the objective of the best trial, in %"),
        Column("Seconds", None, "of merging in all trials"),
        Column("Coefficients", is_numeric=False),
    ]
    note = "Found on the validation split; the boards above show the test split, which no search has seen."
    return Table("What the searches found", columns, rows, [note], is_folded=True)


def _searches(row: Row) -> list[tuple[int, Any]]:
    """The first stage and checkpoint of each search of a row."""
    first: dict[str, tuple[int, Any]] = {}
    for stage, ref in enumerate(row.checkpoints, 1):
        if ref.search is not None:
            first.setdefault(ref.search.record, (stage, ref))
    return list(first.values())


def _along(groups: Sequence[Group], size: int) -> Table | None:
    """Of a long sequence: accuracy on the tasks seen so far, after more and more of them."""
    if size < MANY_TASKS:
        return None
    stages = sorted({round(1 + place * (size - 1) / (STAGES_SHOWN - 1)) for place in range(STAGES_SHOWN)})
    columns = [Column("Method", is_numeric=False), Column("Experts", is_numeric=False)]
    columns += [Column(str(stage), "Tasks seen") for stage in stages]
    rows = [
        [
            Cell(one.group.label, board.title),
            Cell(one.group.regime or UNDEFINED),
            *(_seen(one.group, stage) for stage in stages),
        ]
        for board, standing in standings(groups)
        for one in standing
    ]
    note = "Average accuracy in % over the tasks seen so far, mean ± half the 95 % interval (Student t)."
    return Table("Along the sequence", columns, rows, [note], is_folded=True)


def _seen(group: Group, stage: int) -> Cell:
    means = [sum(row.accuracy[stage - 1][:stage]) / stage for row in group.rows]
    return Aggregate(mean_interval(means)).cell()


def _plain(group: Group, metric: str) -> dict[str, float | None] | None:
    interval = aggregate(group, metric).interval
    return None if interval is None else {"mean": interval.mean, "half_width": interval.half_width}


def _by_accuracy(group: Group) -> tuple[float, str]:
    interval = aggregate(group, "average_accuracy").interval
    return (-interval.mean if interval else float("inf"), group.name)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
