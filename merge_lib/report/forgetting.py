"""What was forgotten, and which examples: tables, heat maps and pictures, for a report and a page of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from merge_lib.forgetting.summary import Loss
from merge_lib.report.aggregate import Aggregate, Group, merges_of
from merge_lib.report.charts import block_panel
from merge_lib.report.layout import UNDEFINED, Cell, Column, Figure, Panel, Report, Section, Shape, Table
from merge_lib.results import ForgettingSummary, ForgottenExample, StudyResults
from merge_lib.statistics import mean_interval

BLOCKS, EXAMPLES = "directions-kept", "forgotten-examples"
_ACROSS, _SIDE, _ROOM = 4, 56.0, (82.0, 92.0)  # pictures in a row, the side of one, what each takes
_PARTS = {"shared kept": "shared", "specific kept": "specific"}
_COLUMNS = {  # measure -> group, heading, note
    "before": ("Accuracy", "Before", "of each task's own expert"),
    "after": ("Accuracy", "After", "of the merge"),
    "forgotten": (
        "Examples",
        "Forgotten",
        "share of a task's examples: the expert is right, the merge is wrong",
    ),
    "gained": ("Examples", "Gained", "share of a task's examples: the expert is wrong, the merge is right"),
    "shared share": ("Shared part", "Share", "of ‖τ_t‖²"),
    "shared kept": ("Shared part", "Kept", "⟨Δ, s_t⟩ / ‖s_t‖², s_t the shared part of τ_t"),
    "shared opposed": (
        "Shared part",
        "Opposed",
        "share of ‖s_t‖² in entries against the sign of Δ",
    ),
    "specific kept": ("Specific part", "Kept", "⟨Δ, p_t⟩ / ‖p_t‖², p_t = τ_t − s_t"),
    "specific opposed": (
        "Specific part",
        "Opposed",
        "share of ‖p_t‖² in entries against the sign of Δ",
    ),
}
_OF_A_TASK = {
    "base": ("Accuracy", "Base", "of the base"),
    "shared cosine": ("Cosine with Δ", "Shared", "of the shared part"),
    "specific cosine": ("Cosine with Δ", "Specific", "of the task-specific part"),
    "left overlap": ("Overlap with others", "Left", "of leading singular subspaces, mean over matrices"),
    "right overlap": (
        "Overlap with others",
        "Right",
        "of leading singular subspaces, mean over matrices",
    ),
    "merged left overlap": ("Overlap with the merge", "Left", "of the task's subspace with that of Δ"),
    "merged right overlap": ("Overlap with the merge", "Right", "of the task's subspace with that of Δ"),
}
_OF_A_BLOCK = ("shared share", "shared kept", "specific kept")
_NOTE = (
    "In %, means over the tasks, ± half the 95 % interval over the seeds; the last merge of each sequence. Shared is "
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
        Section("examples", "Examples", [] if examples else [_said_of(examples)], list(shown)),
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


def examples_of(examples: Sequence[ForgottenExample]) -> list[Figure | Table]:
    """Pictures as a figure, texts as a table; as a table, too, what can be shown in no way."""
    figure = example_figure(examples)
    others = [one for one in examples if not one.picture]
    return [*([figure] if figure else []), *([_example_table(others)] if others else [])]


def example_figure(examples: Sequence[ForgottenExample]) -> Figure | None:
    """The pictures, a panel for each task; None where there are none."""
    pictured: dict[str, list[ForgottenExample]] = {}
    for one in examples:
        if one.picture:
            pictured.setdefault(one.task, []).append(one)
    if not pictured:
        return None
    panels = [_example_panel(task, some) for task, some in pictured.items()]
    return Figure(
        EXAMPLES,
        "Examples that were forgotten",
        "Examples that the task's expert answers rightly and merges do not.",
        f"{_said_of(examples)} Below each the right answer → the merges' most frequent one.",
        panels,
        [],
        2,
    )


def _said_of(examples: Sequence[ForgottenExample]) -> str:
    if not examples:
        return "No example is known that an expert answers rightly and a merge does not."
    if max(one.of for one in examples) == 1:
        return "The experts answer these rightly, the merge does not; first those that they were surest of."
    return "The experts answer these rightly; first those that most merges answer wrongly."


def _example_panel(task: str, examples: Sequence[ForgottenExample]) -> Panel:
    shapes = []
    wide, tall = _ROOM
    for place, one in enumerate(examples):
        x, y = wide * (place % _ACROSS), tall * (place // _ACROSS)
        middle = x + wide / 2
        tip = f"example {one.example}: {one.truth}, forgotten by {one.merges} of {one.of}"
        left = middle - _SIDE / 2
        shapes.append(Shape("image", "picture", left, y + 4, _SIDE, _SIDE, d=one.picture, text=tip))
        said = f"{_short(one.truth)} → {_short(one.answer)}"
        shapes.append(Shape("text", "label", middle, y + _SIDE + 18, text=said, anchor="middle"))
        if one.of > 1:
            count = f"{one.merges} of {one.of}"
            shapes.append(Shape("text", "tick", middle, y + _SIDE + 31, text=count, anchor="middle"))
    said = "; ".join(f"{one.truth} answered as {one.answer}" for one in examples)
    rows = -(-len(examples) // _ACROSS)
    return Panel(task, f"{task}: {said}.", wide * _ACROSS, tall * rows + 4, shapes)


def _example_table(examples: Sequence[ForgottenExample]) -> Table:
    columns = [
        Column("Task", is_numeric=False),
        Column("Example"),
        Column("Text", is_numeric=False),
        Column("Right answer", is_numeric=False),
        Column("The merges' answer", is_numeric=False),
        Column("Forgotten by"),
    ]
    rows = [
        [
            Cell(one.task),
            Cell(str(one.example)),
            Cell(one.text or UNDEFINED),
            Cell(one.truth),
            Cell(one.answer),
            Cell(f"{one.merges} of {one.of}"),
        ]
        for one in examples
    ]
    return Table("Forgotten examples", columns, rows, [_said_of(examples)], wraps=True)


def _short(word: str) -> str:
    return word if len(word) <= 5 else f"{word[:4]}…"


def _ordered(measures: Mapping[str, tuple[str, str, str]]) -> list[str]:
    """The measures with those of one group side by side."""
    groups = dict.fromkeys(group for group, _, _ in measures.values())
    return [name for group in groups for name, told in measures.items() if told[0] == group]


def _columns(measures: Mapping[str, tuple[str, str, str]]) -> list[Column]:
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
