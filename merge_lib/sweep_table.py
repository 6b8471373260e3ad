"""What the studies of a sweep measured, as one long table; and the merge paths in it that claims are judged on."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from merge_lib.claims import MergePath, Protocol
from merge_lib.results import Row, StudyResults

if TYPE_CHECKING:
    import pandas as pd

CUES = ("cues", "text-cues")  # workloads whose tasks differ in cues alone
PROTOCOLS: dict[float, Protocol] = {0.0: "unshared", 1.0: "shared"}


@dataclass(frozen=True)
class MeasuredCell:
    """The results of a study at one combination of levels."""

    levels: Mapping[str, str]  # axis name -> name of the level
    results: StudyResults

    @property
    def title(self) -> str:
        """The levels in words."""
        return ", ".join(f"{axis} = {level}" for axis, level in self.levels.items())

    def family_of(self, row: Row) -> str:
        """What rows that `each` made have in common; else the row's own label."""
        entries = {entry["label"]: entry for entry in self.results.config["methods"]}
        return entries.get(row.label, {}).get("family") or row.label


def long_table(cells: Sequence[MeasuredCell]) -> "pd.DataFrame":
    """One line for each number that was measured.

    Args:
        cells: the studies of one sweep; all have the same axes.

    Returns:
        A column for each axis (its level), then `run`, `label`, `family`, `kind`, `method`, `params` (JSON), `regime`,
        `seed` (empty where there is none), `stage` (1 to T), `measure` and `value`. Measures are
        `accuracy/<task>` and `probe/<name>` at every stage, in [0, 1], and those of `merge_lib.metrics` at the last.
    """
    import pandas as pd

    return pd.DataFrame(line for cell in cells for line in _lines(cell))


def _lines(cell: MeasuredCell) -> Iterator[dict[str, Any]]:
    for row in cell.results.rows:
        named = {
            **cell.levels,
            "run": cell.results.run_id,
            "label": row.label,
            "family": cell.family_of(row),
            "kind": row.kind,
            "method": row.method,
            "params": json.dumps(row.params, sort_keys=True),
            "regime": row.regime or "",
            "seed": "" if row.seed is None else str(row.seed),
        }
        for stage, measure, value in _numbers(row, cell.results.tasks):
            yield {**named, "stage": stage, "measure": measure, "value": value}


def _numbers(row: Row, tasks: Sequence[str]) -> Iterator[tuple[int, str, float]]:
    for stage, accuracies in enumerate(row.accuracy, 1):
        yield from ((stage, f"accuracy/{task}", value) for task, value in zip(tasks, accuracies, strict=True))
    for stage, probes in enumerate(row.probes, 1):
        yield from ((stage, f"probe/{name}", value) for name, value in probes.items())
    last = len(row.accuracy)
    yield from ((last, name, value) for name, value in row.metrics.items() if value is not None)


def merge_paths(cells: Sequence[MeasuredCell]) -> list[MergePath]:
    """The linear paths between two endpoints of cue studies, shared and unshared, for each regime and seed.

    A path is what `{method: linear, each: {position: […]}}` makes of two cue tasks; other rows, and studies in which
    a part of the images is shared, are passed over.
    """
    paths = []
    for cell in cells:
        workload = cell.results.config["workload"]
        protocol = PROTOCOLS.get(float(workload.get("shared", -1.0)))
        if workload["name"] in CUES and protocol is not None and len(cell.results.tasks) == 2:
            paths += _paths_of(cell, protocol)
    return paths


def _paths_of(cell: MeasuredCell, protocol: Protocol) -> Iterator[MergePath]:
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in cell.results.rows:
        if row.kind == "merge" and row.method == "linear" and row.regime is not None and row.seed is not None:
            groups.setdefault((cell.family_of(row), row.regime, row.seed), []).append(row)
    for (_, regime, seed), rows in groups.items():
        ordered = sorted(rows, key=lambda row: row.params["position"])
        positions = tuple(float(row.params["position"]) for row in ordered)
        if not {0.0, 0.5, 1.0} <= set(positions):
            continue
        tasks = cell.results.tasks
        own = {task: tuple(row.accuracy[-1][k] for row in ordered) for k, task in enumerate(tasks)}
        if protocol == "shared":  # both tasks are asked with the one cue
            own = {tasks[0]: own[tasks[0]]}
        ends = {task: float(k) for k, task in enumerate(tasks) if task in own}
        yield MergePath(protocol, regime, seed, positions, own, ends)
