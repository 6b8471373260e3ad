"""What was forgotten, and which examples: tables and heat maps, for a report and for a page of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from merge_lib.forgetting.summary import Loss
from merge_lib.report.aggregate import Aggregate, Group, merges_of
from merge_lib.report.charts import block_panel
from merge_lib.report.examples import examples_of, said_of
from merge_lib.report.layout import UNDEFINED, Cell, Column, Figure, Report, Section, Table
from merge_lib.results import ForgettingSummary, ForgottenExample, StudyResults
from merge_lib.statistics import mean_interval

BLOCKS = "directions-kept"
_PARTS = {"shared kept": "shared", "specific kept": "specific"}
_Told = tuple[str, str, str]  # group, heading, note


def _of_part(part: str, symbol: str, meaning: str) -> dict[str, _Told]:
    """The measures of the shared or of the task-specific part of a task vector."""
    group = f"{part.capitalize()} part"
    return {
        f"{part} kept": (group, "Kept", f"⟨Δ, {symbol}⟩ / ‖{symbol}‖², {meaning}"),
        f"{part} opposed": (group, "Opposed", f"share of ‖{symbol}‖² in entries against the sign of Δ"),
    }


_FORGOTTEN = "share of a task's examples: the expert is right, the merge is wrong"
_GAINED = "share of a task's examples: the expert is wrong, the merge is right"
_COLUMNS: dict[str, _Told] = {
    "before": ("Accuracy", "Before", "of each task's own expert"),
    "after": ("Accuracy", "After", "of the merge"),
    "forgotten": ("Examples", "Forgotten", _FORGOTTEN),
    "gained": ("Examples", "Gained", _GAINED),
    "shared share": ("Shared part", "Share", "of ‖τ_t‖²"),
    **_of_part("shared", "s_t", "s_t the shared part of τ_t"),
    **_of_part("specific", "p_t", "p_t = τ_t − s_t"),
}
_SUBSPACES = "of leading singular subspaces, mean over matrices"
_WITH_DELTA = "of the task's subspace with that of Δ"
_OF_A_TASK: dict[str, _Told] = {
    "base": ("Accuracy", "Base", "of the base"),
    "shared cosine": ("Cosine with Δ", "Shared", "of the shared part"),
    "specific cosine": ("Cosine with Δ", "Specific", "of the task-specific part"),
    "left overlap": ("Overlap with others", "Left", _SUBSPACES),
    "right overlap": ("Overlap with others", "Right", _SUBSPACES),
    "merged left overlap": ("Overlap with the merge", "Left", _WITH_DELTA),
    "merged right overlap": ("Overlap with the merge", "Right", _WITH_DELTA),
}
_OF_A_BLOCK = ("shared share", "shared kept", "specific kept")
_NOTE = (
    "In %, means over the tasks, ± half the 95 % interval (Student t); the last merge of each sequence. Shared is "
    "what of a task vector lies in the leading left and right singular directions that more tasks use than chance "
    "would have it, or points where the others point; task-specific is the rest. Kept is how far the merge goes along "
    "that part: 100 % as far as the expert, 0 not at all, below 0 the other way."
)


@dataclass(frozen=True)
class Merged:
    """One method in one regime, over its seeds."""

    label: str
    method: str
    regime: str | None
    summaries: tuple[ForgettingSummary, ...]

    @property
    def name(self) -> str:
        """Label and regime."""
        return self.label if self.regime is None else f"{self.label} ({self.regime})"

    def mean_of(self, measure: str) -> list[float]:
        """The mean over the tasks for which it is defined, of each seed that has any."""
        values = [summary.of_tasks(measure) for summary in self.summaries]
        return [sum(some) / len(some) for some in values if some]

    def of_task(self, task: str, measure: str) -> list[float]:
        """Of each seed for which it is defined."""
        found = (summary.tasks.get(task, {}).get(measure) for summary in self.summaries)
        return [value for value in found if value is not None]

    def of_block(self, block: str, measure: str) -> list[float]:
        """The mean over the tasks, of each seed that has any."""
        found = (
            [kept[measure] for kept in summary.blocks.get(block, {}).values() if measure in kept]
            for summary in self.summaries
        )
        return [sum(some) / len(some) for some in found if some]

    @property
    def blocks(self) -> list[str]:
        """Those of any seed, in order."""
        return list(dict.fromkeys(block for summary in self.summaries for block in summary.blocks))


def forgotten(groups: Sequence[Group], results: StudyResults) -> Section | None:
    """The section of a study's report; None where no merge was compared with its experts."""
    merges = []
    for group in merges_of(groups):
        summaries = tuple(row.forgetting for row in group.rows if row.forgetting is not None)
        if summaries:
            merges.append(Merged(group.label, group.method, group.regime, summaries))
    if not merges:
        return None
    lead = (
        "How the merge after the last task differs from the experts: on examples, and along their task vectors. "
        f"`mergeline forgetting {results.run_id} --label …` has one merge by task and by tensor."
    )
    return Section(
        "forgotten",
        "What was forgotten, and which examples",
        [lead],
        [
            overview(merges),
            by_task(merges, results.tasks),
            block_figure(merges),
            *examples_of(results.forgotten),
        ],
    )


def page(
    title: str,
    facts: Sequence[tuple[str, str]],
    merges: Sequence[Merged],
    tasks: Sequence[str],
    losses: Sequence[Loss],
    examples: Sequence[ForgottenExample],
) -> Report:
    """A page of its own: of one merge everything, of several what can be set side by side."""
    is_one = len(merges) == 1
    tables = [of_one(merges[0], tasks), of_blocks(merges[0])] if is_one else [by_task(merges, tasks)]
    lost = [of_losses(losses)] if losses else []
    shown = examples_of(examples)
    lead = "The merge beside its experts." if is_one else "Merges beside their experts."
    sections = [
        Section(
            "tasks", "Tasks and directions", [lead], [overview(merges), *tables, block_figure(merges), *lost]
        ),
        Section("examples", "Examples", [] if examples else [said_of(examples)], list(shown)),
    ]
    return Report(title, "What the merge forgot.", list(facts), [], sections)


def overview(merges: Sequence[Merged]) -> Table:
    """A row for each merge, means over the tasks."""
    columns = [Column("Method", is_numeric=False), Column("Experts", is_numeric=False), *_columns(_COLUMNS)]
    rows = [
        [
            Cell(one.label, one.method),
            Cell(one.regime or UNDEFINED),
            *(_cell(one.mean_of(m)) for m in _COLUMNS),
        ]
        for one in merges
    ]
    return Table("Before and after, shared and task-specific", columns, rows, [_NOTE])


def by_task(merges: Sequence[Merged], tasks: Sequence[str]) -> Table:
    """Accuracy before and after for each task."""
    columns = [Column("Method", is_numeric=False), Column("Experts", is_numeric=False)]
    columns += [Column(task, "Before → after") for task in tasks]
    rows = [
        [Cell(one.label, one.method), Cell(one.regime or UNDEFINED), *(_from_to(one, task) for task in tasks)]
        for one in merges
    ]
    note = "Accuracy in % of each task's own expert → of the merge, means over the seeds."
    return Table("Each task before and after", columns, rows, [note], is_folded=len(merges) > 1)


def of_one(merge: Merged, tasks: Sequence[str]) -> Table:
    """One merge, a row for each task."""
    measures = {**_COLUMNS, **_OF_A_TASK}
    columns = [Column("Task", is_numeric=False), *_columns(measures)]
    rows = [
        [Cell(task), *(_cell(merge.of_task(task, measure)) for measure in _ordered(measures))]
        for task in tasks
    ]
    return Table("By task", columns, rows, [])


def of_blocks(merge: Merged) -> Table:
    """One merge, a row for each block, means over the tasks."""
    measures = {name: _COLUMNS[name] for name in _OF_A_BLOCK}
    columns = [Column("Block", is_numeric=False), *_columns(measures)]
    rows = [
        [Cell(block), *(_cell(merge.of_block(block, measure)) for measure in measures)]
        for block in merge.blocks
    ]
    return Table("By block", columns, rows, [])


def of_losses(losses: Sequence[Loss]) -> Table:
    """The tensors where most is gone."""
    columns = [Column(title, is_numeric=False) for title in ("Tensor", "Task")]
    columns += [
        Column("Shared", "Gone, of the whole task vector"),
        Column("Specific", "Gone, of the whole task vector"),
    ]
    rows = [
        [Cell(loss.tensor), Cell(loss.task), _cell([loss.shared]), _cell([loss.specific])] for loss in losses
    ]
    note = "In % of ‖τ_t‖² of the whole model: energy of the part less what the merge goes along it."
    return Table("Where most is gone", columns, rows, [note])


def block_figure(merges: Sequence[Merged]) -> Figure:
    """Heat maps of what is kept of both parts, a row for each block."""
    panels = []
    for merge in merges:
        blocks = merge.blocks
        values = np.array([[_mean(merge.of_block(block, part)) for part in _PARTS] for block in blocks])
        names = list(_PARTS.values())
        panels.append(block_panel(merge.name, values, blocks, names, heading="directions", is_named=True))
    return Figure(
        BLOCKS,
        "Shared and task-specific directions kept, by block",
        "What the merges keep of shared and of task-specific directions in each block, in percent.",
        "In %, means over tasks and seeds. A pale column is a kind of knowledge that the merge drops.",
        panels,
        [],
        3,
    )


def _ordered(measures: Mapping[str, _Told]) -> list[str]:
    """The measures with those of one group side by side."""
    groups = dict.fromkeys(group for group, _, _ in measures.values())
    return [name for group in groups for name, told in measures.items() if told[0] == group]


def _columns(measures: Mapping[str, _Told]) -> list[Column]:
    return [Column(measures[name][1], measures[name][0], measures[name][2]) for name in _ordered(measures)]


def _from_to(merge: Merged, task: str) -> Cell:
    before, after = merge.of_task(task, "before"), merge.of_task(task, "after")
    if not before or not after:
        return Cell(UNDEFINED, "not measured")
    return Cell(f"{100 * _mean(before):.1f} → {100 * _mean(after):.1f}")


def _cell(values: Sequence[float]) -> Cell:
    if not values:
        return Cell(
            UNDEFINED, "undefined: nothing is shared, the task vector is zero, or it was not measured"
        )
    return Aggregate(mean_interval(values)).cell()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
