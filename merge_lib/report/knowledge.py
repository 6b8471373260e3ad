"""Where knowledge goes in a sweep: what is left of each task by its age, and of shared cues as tasks arrive."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from merge_lib.metrics import retention_score
from merge_lib.report.aggregate import Group, gather, merges_of
from merge_lib.report.charts import Curve, block_panel, line_panel
from merge_lib.report.layout import Figure, Panel
from merge_lib.results import Row, StudyResults
from merge_lib.sweep_table import MeasuredCell

SHARED = "shared"  # the probe of a cue that all tasks have
FEWEST = 3  # tasks from which on there are ages to speak of
MOST_PANELS = 24
NOTE = (
    "Share of an expert's gain over the base that is left, in %: 100 is all of it, 0 is the base again. Mean over the "
    "seeds; left out where the expert gained less than five points."
)


@dataclass(frozen=True)
class Known:
    """The references of one study: what the base and the experts reach."""

    bases: dict[int | None, Row]
    experts: dict[tuple[str | None, int | None], Row]  # by regime and seed

    @classmethod
    def of(cls, results: StudyResults) -> "Known":
        """From the rows of references."""
        bases = {row.seed: row for row in results.rows if row.method == "base"}
        trained = [row for row in results.rows if row.method in ("expert", "sequential", "latest")]
        return cls(bases, {(row.regime, row.seed): row for row in trained})

    def base_of(self, row: Row) -> Row | None:
        """The base that the row's experts come from."""
        return self.bases.get(row.seed, self.bases.get(None))

    def kept(self, row: Row, task: int, stage: int) -> float:
        """Retention of one task after a stage; NaN where it has no meaning."""
        base, expert = self.base_of(row), self.experts.get((row.regime, row.seed))
        if base is None or expert is None:
            return np.nan
        learned = expert.accuracy[task][task]
        return _share(row.accuracy[stage][task], base.accuracy[-1][task], learned)

    def kept_shared(self, row: Row, stage: int) -> float:
        """Retention of the shared cue after a stage, against the newest expert."""
        base, expert = self.base_of(row), self.experts.get((row.regime, row.seed))
        rows = (row, base, expert)
        if any(one is None or len(one.probes) <= stage or SHARED not in one.probes[stage] for one in rows):
            return np.nan
        merged, start, learned = (one.probes[stage][SHARED] for one in rows if one is not None)
        return _share(merged, start, learned)


def _share(merged: float, base: float, expert: float) -> float:
    value = retention_score(merged, base, expert).value
    return np.nan if value is None else value


def ages(cells: Sequence[MeasuredCell]) -> Figure | None:
    """Method × task, the oldest first: what is left after the last task."""
    panels = [panel for cell in cells if len(cell.results.tasks) >= FEWEST for panel in _age_panels(cell)]
    if not panels:
        return None
    caption = f"Columns: tasks from the oldest to the newest. {NOTE}{_cut(panels)}"
    title = "What is left of each task, by its age"
    return Figure("ages", title, title, caption, panels[:MOST_PANELS], [], 3)


def _age_panels(cell: MeasuredCell) -> Iterator[Panel]:
    known, tasks = Known.of(cell.results), cell.results.tasks
    groups = merges_of(gather(cell.results))
    for regime in dict.fromkeys(group.regime for group in groups):
        members = [group for group in groups if group.regime == regime]
        last = len(tasks) - 1
        kept = np.array(
            [
                [_mean([known.kept(row, k, last) for row in g.rows]) for k in range(len(tasks))]
                for g in members
            ]
        )
        if not np.isnan(kept).all():
            yield block_panel(_title(regime, cell), kept, [group.label for group in members], tasks)


def along_tasks(cells: Sequence[MeasuredCell]) -> Figure | None:
    """Retention of what tasks have of their own, and of what they share, as tasks arrive."""
    panels = [panel for cell in cells if len(cell.results.tasks) >= FEWEST for panel in _task_panels(cell)]
    if not panels:
        return None
    legend = [("sequential", "sequential experts"), ("parallel", "parallel experts")]
    legend += [("line-solid", "the tasks' own cues, mean of those seen"), ("line-dashed", "the shared cue")]
    title = "Shared and specific knowledge as tasks arrive"
    caption = f"{NOTE} What is below 0 is drawn at 0.{_cut(panels)}"
    return Figure("knowledge", title, title, caption, panels[:MOST_PANELS], legend, 3)


def _task_panels(cell: MeasuredCell) -> Iterator[Panel]:
    known, count = Known.of(cell.results), len(cell.results.tasks)
    groups = merges_of(gather(cell.results))
    for label in dict.fromkeys(group.label for group in groups):
        curves = [curve for group in groups if group.label == label for curve in _curves(group, known, count)]
        if curves:
            high = 1.5 if max(np.nanmax(curve.values) for curve in curves) > 1.0 else 1.0
            clipped = [Curve(c.style, c.name, np.clip(c.values, 0.0, high), c.has_band) for c in curves]
            yield line_panel(f"{label} · {cell.title}", clipped, high=high, x_title="tasks learned")


def _curves(group: Group, known: Known, count: int) -> Iterator[Curve]:
    own = np.array(
        [[_mean([known.kept(row, k, t) for k in range(t + 1)]) for t in range(count)] for row in group.rows]
    )
    shared = np.array([[known.kept_shared(row, t) for t in range(count)] for row in group.rows])
    regime = group.regime or "parallel"
    if not np.isnan(own).all():
        yield Curve(regime, f"own cues, {regime}", own)
    if not np.isnan(shared).all():
        yield Curve(f"{regime} second", f"shared cue, {regime}", shared, has_band=False)


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return sum(defined) / len(defined) if defined else np.nan


def _title(regime: str | None, cell: MeasuredCell) -> str:
    return " · ".join(filter(None, (regime, cell.title)))


def _cut(panels: Sequence[Panel]) -> str:
    if len(panels) <= MOST_PANELS:
        return ""
    return f" The first {MOST_PANELS} of {len(panels)} charts; all numbers are in sweep.parquet."
