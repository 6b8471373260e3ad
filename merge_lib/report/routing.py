"""How inputs found the models of a merge: by which rule, how often the right one, and what is kept for it."""

from collections.abc import Sequence
from typing import Any

from merge_lib.report.aggregate import Aggregate, Group, merges_of
from merge_lib.report.layout import UNDEFINED, Cell, Column, Section, Table
from merge_lib.report.sizes import bytes_cell, bytes_text
from merge_lib.statistics import mean_interval

LEAD = (
    "These merges give a model for each task. Where an input does not say of which task it is, it is near to the "
    "prototypes of some tasks, as the frozen base sees it, and the models of those vote."
)
UNSEEN = {"aggregate": "a vote", "shared": "what tasks share", "base": "the base"}


def section(groups: Sequence[Group], tasks: Sequence[str]) -> Section | None:
    """Rules, shares of inputs that are nearest to their own task, and bytes after each task."""
    routed = [group for group in merges_of(groups) if any(row.routed for row in group.rows)]
    if not routed:
        return None
    tables = [_rules(routed), _right(routed, tasks), _kept(routed)]
    return Section(
        "routing", "How inputs found their models", [LEAD], [one for one in tables if one is not None]
    )


def _named(group: Group) -> list[Cell]:
    return [Cell(group.label, group.method), Cell(group.regime or UNDEFINED)]


_COLUMNS = [Column("Method", is_numeric=False), Column("Experts", is_numeric=False)]


def _rules(groups: Sequence[Group]) -> Table:
    """The settings, a line a label."""
    rows = []
    for label in dict.fromkeys(group.label for group in groups):
        asked = next(group.rows[0].routing or {} for group in groups if group.label == label)
        rows.append([Cell(label), *map(Cell, _rule(asked))])
    titles = ("Method", "Tasks seen", "Tasks to come", "Voters", "Weights", "Prototypes of")
    return Table("Who answers", [Column(title, is_numeric=False) for title in titles], rows)


def _rule(asked: dict[str, Any]) -> tuple[str, ...]:
    known = "the task's own model" if asked["known_tasks"] else "a vote"
    if asked["unseen"] != "aggregate":
        return known, UNSEEN[asked["unseen"]], UNDEFINED, UNDEFINED, UNDEFINED
    base = "the base and " if asked["include_base"] else ""
    images = asked["images"]
    shown = "all images" if images["examples"] is None else f"{images['examples']} images a task"
    seen = "texts alone" if images["examples"] == 0 else f"texts and {shown} ({images['split']})"
    return known, UNSEEN["aggregate"], f"{base}{asked['voters']} tasks", asked["weights"], seen


def _right(groups: Sequence[Group], tasks: Sequence[str]) -> Table | None:
    """After the last task, the share of each task's inputs that are nearest to its own prototypes."""
    voting = [group for group in groups if all(row.routed and row.routed[-1].right for row in group.rows)]
    if not voting:
        return None
    rows = []
    for group in voting:
        right = [row.routed[-1].right for row in group.rows]
        means = [sum(one.values()) / len(one) for one in right]
        cells = [_share([one[task] for one in right]) for task in tasks if task in right[0]]
        rows.append([*_named(group), _share(means), *cells])
    columns = [*_COLUMNS, Column("Mean"), *(Column(task, "Of the inputs of") for task in tasks)]
    note = "In % of the test split, after the last task, mean ± half the 95 % interval (Student t)."
    return Table("Inputs nearest to their own task", columns, rows, [note])


def _share(values: Sequence[float]) -> Cell:
    return Aggregate(mean_interval(list(values))).cell()


def _kept(groups: Sequence[Group]) -> Table:
    """Bytes after each task; the parts after the last."""
    stages = max(len(row.routed) for group in groups for row in group.rows)
    parts = list(dict.fromkeys(part for group in groups for part in group.rows[0].routed[-1].kept))
    rows = []
    for group in groups:
        kept = [stage.kept for stage in group.rows[0].routed]
        told = ", ".join(f"{part} {bytes_text(size)}" for part, size in kept[-1].items())
        totals = [Cell(bytes_text(sum(one.values())), f"{sum(one.values())} bytes") for one in kept]
        rows.append(
            [
                *_named(group),
                *totals,
                *(
                    bytes_cell(kept[-1][part]) if part in kept[-1] else Cell(UNDEFINED, told)
                    for part in parts
                ),
            ]
        )
    columns = [*_COLUMNS, *(Column(str(stage + 1), "After task") for stage in range(stages))]
    columns += [Column(part, "Of that, after the last task") for part in parts]
    note = "What must be kept beside the base to answer and to merge the next expert."
    return Table("Bytes kept", columns, rows, [note])
