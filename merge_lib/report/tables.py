"""The tables of the report; every number of HTML, Markdown and terminal is made here."""

import math
from collections.abc import Sequence

from merge_lib.metrics import MetricInfo, describe
from merge_lib.report.aggregate import (
    Aggregate,
    Group,
    aggregate,
    boards_of,
    compare,
    find,
    labels_of,
    marked,
    merges_of,
    number,
    number_text,
    p_value,
    ranked_of,
    references_of,
    regimes_of,
)
from merge_lib.report.findings import compare_regimes, own_accuracy, reference_interval
from merge_lib.report.layout import UNDEFINED, Cell, Column, Table
from merge_lib.report.sizes import bytes_cell, size_cell
from merge_lib.statistics import mean_interval

MAIN = ("average_accuracy", "retention_mean", "forgetting")
MORE = (
    "average_incremental_accuracy",
    "worst_task_accuracy",
    "learning_accuracy",
    "backward_transfer",
    "forward_transfer",
    "intransigence",
    "retention_worst",
    "plasticity_gap",
    "normalised_accuracy",
    "normalised_improvement",
)
NOT_IN_STUDY = "not in this study"
LEGEND = (
    "In %, mean ± half the 95 % interval over the seeds (Student t). Bold: told apart from every other row "
    "by a paired test. ≈: not distinguishable from the best mean. Order: average accuracy over both regimes, "
    "no claim."
)


def methods_by_regime(groups: Sequence[Group], metrics: Sequence[str], caption: str) -> Table:
    """One row a method, one column for each metric and regime, the best marked where a test says so."""
    merges, known = merges_of(groups), describe()
    regimes = regimes_of(merges)
    values = {name: marked(merges, known[name]) for name in metrics}
    columns = [Column("Method", is_numeric=False)]
    for name in metrics:
        heading = f"{known[name].title}\u00a0{_arrow(known[name])}"
        columns += [Column(regime or "all", heading, known[name].formula) for regime in regimes]
    rows = []
    for label in labels_of(merges):
        row = [Cell(label)]
        for name in metrics:
            row += [_cell(find(merges, label, regime), values[name]) for regime in regimes]
        rows.append(row)
    undecided = [known[name].title.lower() for name in metrics if _tells_nothing(merges, known[name])]
    notes = [LEGEND]
    if len(boards_of(merges)) > 1:
        notes.append("Rows are compared with those of their own board of the leaderboard only.")
    if undecided:
        notes.append(f"No row can be told from the best mean, so none is marked: {', '.join(undecided)}.")
    return Table(caption, columns, rows, notes)


def every_metric(groups: Sequence[Group], metrics: Sequence[str], caption: str) -> Table:
    """One row for each method and regime, one column a metric."""
    ranked, known = ranked_of(groups), describe()
    columns = [Column("Method", is_numeric=False), Column("Experts", is_numeric=False)]
    columns += [
        Column(f"{known[name].title}\u00a0{_arrow(known[name])}", None, known[name].formula)
        for name in metrics
    ]
    values = {name: marked(ranked, known[name]) for name in metrics}
    rows = [
        [
            Cell(group.label),
            Cell(group.regime or UNDEFINED),
            *(values[name][group.name].cell() for name in metrics),
        ]
        for group in ranked
    ]
    return Table(caption, columns, rows, [LEGEND], is_folded=True)


def regime_differences(groups: Sequence[Group]) -> Table | None:
    """Sequential minus parallel experts for each method, with a corrected paired test."""
    metrics = ("average_accuracy", "forgetting")
    compared = {name: {c.label: c for c in compare_regimes(groups, name)} for name in metrics}
    labels = [label for label in labels_of(merges_of(groups)) if any(label in c for c in compared.values())]
    if not labels:
        return None
    known = describe()
    columns = [Column("Method", is_numeric=False)]
    for name in metrics:
        columns += [
            Column("Difference", known[name].title, "sequential minus parallel, points"),
            Column("p", known[name].title, "paired t-test, Holm's correction over the methods"),
            Column("Verdict", known[name].title, is_numeric=False),
        ]
    rows = []
    for label in labels:
        row = [Cell(label)]
        for name in metrics:
            one = compared[name].get(label)
            if one is None:
                row += [Cell(UNDEFINED, known[name].undefined_when)] * 3
                continue
            row += [
                Cell(number_text(one.test.difference), f"effect size {_effect(one.test.effect_size)}"),
                Cell(p_value(one.p_holm), one.test.reason),
                Cell(one.verdict),
            ]
        rows.append(row)
    note = (
        "Sequential minus parallel in points, mean ± half the 95 % interval (Student t); p with Holm's correction. "
        "Better means higher accuracy, less forgetting."
    )
    return Table("Sequential minus parallel experts", columns, rows, [note])


def references(groups: Sequence[Group], tasks: Sequence[str]) -> Table:
    """Accuracy of every reference on every task."""
    columns = [Column("Reference", is_numeric=False)]
    infos = [describe()[name] for name in MAIN]
    columns += [Column(f"{info.title}\u00a0{_arrow(info)}", None, info.formula) for info in infos]
    columns += [Column(task, "On task") for task in tasks]
    rows = []
    for group in references_of(groups):
        per_seed = [own_accuracy(group, place) for place in range(len(group.rows))]
        cells = [_task_cell([values[k : k + 1] for values in per_seed]) for k in range(len(tasks))]
        is_unique = [other.title for other in references_of(groups)].count(group.title) == 1
        title = group.title if is_unique else f"{group.title} ({group.regime})"
        rows.append(
            [
                Cell(title, f"{group.label}; {group.method}"),
                *(reference_cell(group, name) for name in MAIN),
                *cells,
            ]
        )
    notes = [
        "In %, mean ± half the 95 % interval over the seeds (Student t). Nothing is merged here, so no row competes "
        "with the methods. Each expert alone is measured on its own task only."
    ]
    return Table("References", columns, rows, notes)


def cost(groups: Sequence[Group]) -> Table:
    """Seconds and bytes of every row."""
    columns = [
        Column("Row", is_numeric=False),
        Column("Experts", is_numeric=False),
        Column(
            "Seconds",
            None,
            "training for references and learners, merging for merges, all stages of one seed, mean",
        ),
        Column("Checkpoint", None, "size of the last checkpoint"),
        Column("All stages", None, "bytes of all checkpoints of one seed, mean"),
        Column("State a task", None, "what is kept after the last task, to go on, over the number of tasks"),
    ]
    rows = []
    for group in groups:
        seconds = sum(row.elapsed_s for row in group.rows) / len(group.rows)
        refs = [ref for row in group.rows for ref in row.checkpoints if ref.path is not None]
        stages = sum(ref.size_bytes for ref in refs) / len(group.rows)
        last = group.rows[0].checkpoints[-1] if group.rows[0].checkpoints else None
        rows.append(
            [
                Cell(group.title, group.method),
                Cell(group.regime or UNDEFINED, None if group.regime else "has no meaning for this row"),
                Cell(number(seconds, 2 if seconds < 10 else 1), f"{seconds:.4f} s"),
                size_cell(last),
                bytes_cell(round(stages)) if refs else size_cell(last),
                _state_cell(group),
            ]
        )
    return Table("Cost", columns, rows, ["One seed, all stages; mean over the seeds."])


def definitions() -> Table:
    """What every metric means."""
    columns = [Column(title, is_numeric=False) for title in ("Metric", "Name", "Formula", "Better", "Source")]
    rows = [
        [
            Cell(info.title, f"undefined where {info.undefined_when}"),
            Cell(info.name, is_code=True),
            Cell(info.formula),
            Cell("higher" if info.higher_is_better else "lower"),
            Cell(info.source),
        ]
        for info in describe().values()
    ]
    note = (
        "R[t,k] is the accuracy after stage t on task k, both counted from 0; L is the last stage, b the "
        "base, E each expert alone, J joint training."
    )
    return Table("Definitions of all metrics", columns, rows, [note], is_folded=True, wraps=True)


def variants() -> list[str]:
    """Names of the metrics that are some other framework's variant."""
    return [name for name in describe() if name not in MAIN and name not in MORE]


def _cell(group: Group | None, values: dict[str, Aggregate]) -> Cell:
    return Cell(UNDEFINED, NOT_IN_STUDY) if group is None else values[group.name].cell()


def _tells_nothing(merges: Sequence[Group], info: MetricInfo) -> bool:
    """Whether no board has a row that can be told from its best."""
    best = [found for _, members in boards_of(merges) if (found := compare(members, info)) is not None]
    best = [found for found in best if found.versus]
    return bool(best) and all(len(found.ties) == len(found.versus) for found in best)


def reference_cell(group: Group, metric: str) -> Cell:
    """One metric of a reference; its accuracy is that of what nothing was merged for."""
    if metric != "average_accuracy":
        return aggregate(group, metric).cell()
    interval = reference_interval(group)
    if interval is None:
        return Cell(UNDEFINED, "not measured on every task")
    return Aggregate(interval).cell()


def _task_cell(values: list[list[float]]) -> Cell:
    flat = [value for one in values for value in one if not math.isnan(value)]
    if len(flat) < len(values):
        return Cell(UNDEFINED, "not measured")
    return Aggregate(mean_interval(flat)).cell()


def _state_cell(group: Group) -> Cell:
    """Bytes a task of a continual method's state."""
    checkpoints = group.rows[0].checkpoints
    state_bytes = checkpoints[-1].state_bytes if checkpoints else None
    if state_bytes is None:
        return Cell(UNDEFINED, "keeps no state: the next merge needs every expert again")
    return bytes_cell(round(state_bytes / len(checkpoints)))


def _effect(value: float | None) -> str:
    return "undefined" if value is None else f"{number(value, 2)} (Cohen's d_z)"


def _arrow(info: MetricInfo) -> str:
    return "↑" if info.higher_is_better else "↓"
