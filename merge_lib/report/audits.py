"""What each merge removed, as a table and as heat maps of block × task."""

from collections.abc import Mapping, Sequence

import numpy as np

from merge_lib.report.aggregate import Aggregate, Group, merges_of
from merge_lib.report.charts import block_panel
from merge_lib.report.layout import UNDEFINED, Cell, Column, Figure, Section, Table
from merge_lib.results import AuditSummary
from merge_lib.statistics import mean_interval

FIGURE = "energy-kept"
_OTHERS = {  # measure -> heading, formula
    "outvoted energy": (
        "Outvoted",
        "share of ‖τ_t‖² in entries whose sign is not that of the sum over experts",
    ),
    "opposed energy": ("Against the merge", "share of ‖τ_t‖² in entries whose sign is not that of Δ"),
    "cosine": ("Cosine", "of Δ and τ_t, mean over the tasks"),
    "merged density": ("Density", "share of the entries that the merge changed"),
}
_NOTE = (
    "In %, mean ± half the 95 % interval over the seeds (Student t); the last merge of each sequence. Energy kept is "
    "⟨Δ, τ_t⟩ / ‖τ_t‖², with Δ the merged task vector and τ_t the expert's: 100 % where the merge goes as far along "
    "τ_t as the expert, 0 where nothing of it is left, below 0 where it goes the other way, above 100 % where it goes "
    "further. Of a method that gives a model for each task, Δ is that task's. The other columns are means over the "
    "tasks."
)


def removed(groups: Sequence[Group], tasks: Sequence[str], run_id: str) -> Section | None:
    """The section; None where nothing was audited."""
    audited = [group for group in merges_of(groups) if _audits(group)]
    if not audited:
        return None
    lead = (
        "What is left of each expert in the merge after the last task, and where it went. "
        f"`mergeline audit {run_id} --label …` names the tensors, and what the method did to them."
    )
    blocks = [_table(audited, tasks), block_figure({group.name: _blocks(group) for group in audited}, tasks)]
    return Section("removed", "What each merge removed", [lead], blocks)


def block_figure(merges: Mapping[str, Mapping[str, Mapping[str, float]]], tasks: Sequence[str]) -> Figure:
    """Heat maps of the energy kept.

    Args:
        merges: title -> block -> task -> energy kept.
        tasks: in the order of the columns.
    """
    panels = []
    for title, blocks in merges.items():
        values = np.array([[kept.get(task, np.nan) for task in tasks] for kept in blocks.values()])
        panels.append(block_panel(title, values, list(blocks), tasks))
    return Figure(
        FIGURE,
        "Energy kept by block and task",
        "Energy kept of each expert's task vector in each block, in percent, one map for each merge.",
        "Energy kept in %, mean over the seeds. A pale row is a block in which the merge drops what the experts "
        "learned, a pale column a task that it drops everywhere.",
        panels,
        [],
        3,
    )


def _table(groups: Sequence[Group], tasks: Sequence[str]) -> Table:
    columns = [Column("Method", is_numeric=False), Column("Experts", is_numeric=False)]
    columns += [Column(task, "Energy kept, by task") for task in tasks]
    columns += [Column("Mean", "Energy kept, by task")]
    columns += [Column(heading, None, formula) for heading, formula in _OTHERS.values()]
    rows = []
    for group in groups:
        found = _audits(group)
        cells = [_cell([audit.tasks.get(task, {}).get("energy kept") for audit in found]) for task in tasks]
        cells += [_cell([_mean(audit, measure) for audit in found]) for measure in ("energy kept", *_OTHERS)]
        rows.append([Cell(group.label, group.method), Cell(group.regime or UNDEFINED), *cells])
    return Table("Energy kept of each expert", columns, rows, [_NOTE])


def _audits(group: Group) -> list[AuditSummary]:
    return [row.audit for row in group.rows if row.audit is not None]


def _blocks(group: Group) -> dict[str, dict[str, float]]:
    """Block -> task -> mean over the seeds in which it is defined."""
    values: dict[str, dict[str, list[float]]] = {}
    for audit in _audits(group):
        for block, kept in audit.blocks.items():
            tasks = values.setdefault(block, {})
            for task, value in kept.items():
                tasks.setdefault(task, []).append(value)
    return {
        block: {task: float(np.mean(found)) for task, found in tasks.items()}
        for block, tasks in values.items()
    }


def _mean(audit: AuditSummary, measure: str) -> float | None:
    values = audit.of_tasks(measure)
    return sum(values) / len(values) if values else None


def _cell(values: Sequence[float | None]) -> Cell:
    known = [value for value in values if value is not None]
    if not known:
        return Cell(UNDEFINED, "undefined: the task vector, or the merge, is zero")
    return Aggregate(mean_interval(known)).cell()
