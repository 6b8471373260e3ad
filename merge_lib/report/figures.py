"""What each figure of the report shows."""

from collections.abc import Sequence

import numpy as np

from merge_lib.metrics import LEAST_LEARNED
from merge_lib.report.aggregate import (
    Group,
    aggregate,
    labels_of,
    merges_of,
    ranked_of,
    references_of,
    regimes_of,
)
from merge_lib.report.charts import Curve, Whisker, heat_panel, interval_panel, line_panel
from merge_lib.report.findings import reference_interval
from merge_lib.report.layout import Figure, Panel

REFERENCE_STYLES = {
    "base": "ref-base",
    "expert": "ref-expert",
    "sequential": "ref-seq",
    "latest": "ref-latest",
    "joint": "ref-joint",
}
OVERVIEW = {"average_accuracy": "Average accuracy, %", "forgetting": "Forgetting, points (less is better)"}


def overview(groups: Sequence[Group]) -> Figure:
    """Average accuracy and forgetting of every method in every regime, with intervals."""
    ranked = ranked_of(groups)
    panels = []
    for metric, title in OVERVIEW.items():
        rows = [
            (label, _whiskers([group for group in ranked if group.label == label], metric))
            for label in labels_of(ranked)
        ]
        if any(whiskers for _, whiskers in rows):
            lines = _reference_lines(groups) if metric == "average_accuracy" else []
            panels.append(interval_panel(title, rows, lines))
    references = [(REFERENCE_STYLES.get(g.method, "ref-base"), g.title) for g in references_of(groups)]
    return Figure(
        "overview",
        "Every method in every regime",
        "Means over seeds with 95 % intervals for each method and regime.",
        "Mean over the seeds with its 95 % interval (Student t); intervals are cut at the edge of the chart. "
        "Vertical lines: references, which merge nothing.",
        panels,
        [*regime_legend(merges_of(groups)), *dict(references).items()],
        2,
    )


def accuracy_matrices(groups: Sequence[Group], tasks: Sequence[str]) -> Figure:
    """The accuracy matrix of every merge, mean over the seeds."""
    panels = [heat_panel(group.name, group.matrices().mean(axis=0), tasks) for group in ranked_of(groups)]
    panels += [
        heat_panel(group.title, group.matrices().mean(axis=0), tasks)
        for group in references_of(groups)
        if group.method in ("sequential", "latest") and len(group.rows[0].accuracy) == len(tasks)
    ]
    return Figure(
        "accuracy-matrices",
        "Accuracy matrices",
        "Accuracy after each stage on each task, in percent, one matrix for each method and regime.",
        "Accuracy in %, mean over the seeds. Read down a column to see what happens to a task as later ones "
        "arrive; the pale cells above the diagonal are tasks that the model has not met yet.",
        panels,
        [],
        4,
    )


def early_tasks(groups: Sequence[Group], tasks: Sequence[str]) -> Figure:
    """Accuracy of the first two tasks as later ones arrive."""
    shown = list(range(min(2, len(tasks) - 1)))
    unmerged = [
        Curve("quiet", "sequential fine-tuning, not merged", group.matrices()[:, :, 0], has_band=False)
        for group in references_of(groups)
        if group.method == "sequential" and len(group.rows[0].accuracy) == len(tasks)
    ]
    panels = []
    for label, members in by_label(groups):
        curves = [
            Curve(
                f"{group.regime or 'parallel'}{' second' if k else ''}",
                f"{tasks[k]}, {group.regime or 'one regime'}",
                _from_stage(group.matrices()[:, :, k], k),
                has_band=k == 0,
            )
            for group in members
            for k in shown
        ]
        panels.append(line_panel(label, [*unmerged, *curves], high=1.0, x_title="tasks learned"))
    legend = regime_legend(merges_of(groups))
    legend.append(("line-solid", f"{tasks[0]} (band: range of the seeds)"))
    legend += [("line-dashed", tasks[k]) for k in shown[1:]]
    legend += [("line-quiet", f"{tasks[0]}, sequential fine-tuning without merging")] if unmerged else []
    return Figure(
        "early-tasks",
        "The first tasks as later ones arrive",
        "Accuracy on the first tasks after each stage, one chart for each method.",
        "Accuracy in % on the tasks that came first, after each further task, mean over the seeds.",
        panels,
        legend,
        3,
    )


def retention(groups: Sequence[Group]) -> Figure:
    """Share kept of what was learned, against the number of merged experts."""
    curves = {group.name: retention_by_stage(group.matrices()) for group in ranked_of(groups)}
    top = max((float(np.nanmax(v)) for v in curves.values() if not np.isnan(v).all()), default=1.0)
    high = float(min(max(1.0, np.ceil(top * 10) / 10), 2.0))
    panels: list[Panel] = []
    for label, members in by_label(groups):
        lines = [
            Curve(group.regime or "parallel", group.regime or label, np.minimum(curves[group.name], high))
            for group in members
        ]
        panels.append(line_panel(label, lines, high=high, x_title="tasks learned"))
    return Figure(
        "retention",
        "Retention against the number of tasks learned",
        "Share kept of the accuracy at learning time after each task, one chart for each method.",
        "Mean over the tasks seen so far of accuracy now over accuracy when the task was learned, in %; "
        "mean over the seeds, the band is their range. Values above 200 % are drawn at the edge.",
        panels,
        regime_legend(merges_of(groups)),
        3,
    )


def retention_by_stage(matrices: np.ndarray) -> np.ndarray:
    """Mean over k <= t of R[t,k] / R[k,k] for each stage t.

    Args:
        matrices: [n, T, T], one accuracy matrix for each seed.

    Returns:
        [n, T]; NaN where an entry is missing or a task was learned to less than 5 %.
    """
    learned = np.diagonal(matrices, axis1=1, axis2=2)
    kept = np.full(matrices.shape, np.nan)
    np.divide(matrices, learned[:, None, :], out=kept, where=learned[:, None, :] >= LEAST_LEARNED)
    return np.stack([kept[:, t, : t + 1].mean(axis=1) for t in range(matrices.shape[1])], axis=1)


def figures_of(groups: Sequence[Group], tasks: Sequence[str]) -> dict[str, Figure]:
    """All figures that the study has data for, by name."""
    if not ranked_of(groups):
        return {}
    drawn = [overview(groups), accuracy_matrices(groups, tasks)]
    if len(tasks) > 1:
        drawn += [early_tasks(groups, tasks), retention(groups)]
    return {figure.name: figure for figure in drawn if figure.panels}


def _from_stage(values: np.ndarray, first: int) -> np.ndarray:
    """A copy in which the stages before the task was learned are missing."""
    seen = values.copy()
    seen[:, :first] = np.nan
    return seen


def by_label(groups: Sequence[Group]) -> list[tuple[str, list[Group]]]:
    """The merges and learners of each label, in their order."""
    ranked = ranked_of(groups)
    return [(label, [group for group in ranked if group.label == label]) for label in labels_of(ranked)]


def _whiskers(groups: Sequence[Group], metric: str) -> list[Whisker]:
    drawn = []
    for group in groups:
        interval = aggregate(group, metric).interval
        if interval is not None:
            name = group.regime or group.label
            drawn.append(
                Whisker(group.regime or "parallel", name, interval.mean, interval.low, interval.high)
            )
    return drawn


def _reference_lines(groups: Sequence[Group]) -> list[Whisker]:
    lines = []
    for group in references_of(groups):
        interval = reference_interval(group)
        if interval is not None:
            style = f"ref {REFERENCE_STYLES.get(group.method, 'ref-base')}"
            lines.append(Whisker(style, group.title, interval.mean, None, None))
    return lines


def regime_legend(merges: Sequence[Group]) -> list[tuple[str, str]]:
    """Style and text of each regime that is drawn."""
    return [(regime, f"{regime} experts") for regime in regimes_of(merges) if regime is not None]
