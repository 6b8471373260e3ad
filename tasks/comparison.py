"""What makes MLflow's pages answer "which method, in which regime, forgets least": means over seeds, and a view.

One run for each method and regime holds the means over the seeds, so that MLflow can sort by them; a saved view of
the experiment (button "Views") shows those of the newest study run, the one that forgets least first.
"""

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from merge_lib.metrics import describe
from merge_lib.report.aggregate import Group, aggregate, gather, number_text
from merge_lib.report.findings import headline
from merge_lib.results import StudyResults
from tasks.payloads import MetricPoint, RunPayload
from tasks.runs import Run

KIND = "comparison"
HEADLINE = (
    "forgetting",
    "retention_mean",
    "average_accuracy",
    "worst_task_accuracy",
    "learning_accuracy",
    "backward_transfer",
)
VIEW = "mergeline"  # the saved view's key; later runs replace it
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
VIEW_TITLE = "Which method, in which regime, forgets least?"
DIGITS = 4  # of the means: what a table shows; the exact values are those of the seeds
BARS = ("forgetting", "average_accuracy", "retention_mean")


def comparison_runs(run: Run, results: StudyResults, now_ms: int) -> list[RunPayload]:
    """One run for each method and regime, and for each reference: means over the seeds, with intervals."""
    return [
        RunPayload(
            key=f"{run.run_id}/{KIND}/{group.label}/{group.regime or 'any'}",
            experiment=run.study,
            name=name_of(group),
            parent=run.run_id,
            tags={
                "mergeline.kind": KIND,
                "mergeline.study": run.study,
                "mergeline.run": run.run_id,
                "mergeline.method": group.method,
                "mergeline.regime": group.regime or "any",
                "mergeline.row": group.kind,
                "mlflow.note.content": f"Mean over {_seeds(group)}; `interval_95/…` is half of the 95 % interval "
                "(Student t).",
            },
            params=_params(group),
            started_ms=now_ms - round(_elapsed_s(group) * 1000),
            ended_ms=now_ms,
            metrics=(*_means(group), *_curves(group, results.tasks)),
        )
        for group in gather(results)
    ]


def name_of(group: Group) -> str:
    """How the pages call a row: the method and its regime."""
    return f"{group.title} · {group.regime}" if group.regime else group.title


def summary_note(results: StudyResults) -> str:
    """The description of the study's run: the answer as a table, and where to look further."""
    known = describe()
    groups = sorted(gather(results), key=_forgetting)
    lines = [["", *(known[name].title for name in HEADLINE)], ["---", *["---:"] * len(HEADLINE)]]
    for group in groups:
        intervals = [aggregate(group, name).interval for name in HEADLINE]
        cells = ["–" if interval is None else number_text(interval) for interval in intervals]
        lines.append([name_of(group), *cells])
    findings = [
        f"**{_asked(found.question)} {found.answer}.** {found.value} {found.certainty}"
        for found in headline(groups)
    ]
    count = len(results.seeds)
    seeds = (
        f", mean ± half of the 95 % interval (Student t) over {count} seeds" if count > 1 else " of one seed"
    )
    paragraphs = (
        "\n".join(f"- {finding}" for finding in findings),
        "\n".join(f"| {' | '.join(line)} |" for line in lines),
        f"Percent{seeds}; what forgets least comes first. To sort, and as charts: "
        f'Training runs, button "Views", "{VIEW_TITLE}". All tests and curves: `report.html`, under Artifacts.',
        results.description.strip(),
    )
    return "\n\n".join(paragraphs)


def experiment_tags(run: Run, now_ms: int) -> dict[str, str]:
    """The experiment's kind, its description, and the saved view of this study run."""
    view = {"name": VIEW_TITLE, "createdAt": now_ms, "updatedAt": now_ms, "state": _packed(_view_state(run))}
    return {
        "mlflow.experimentKind": "custom_model_development",  # MLflow's pages for models, not those for agents
        "mlflow.note.content": str(run.config.get("description", "")).strip(),
        VIEW_TAG: json.dumps(view),
    }


def _asked(question: str) -> str:
    return question if question.endswith("?") else f"{question}:"


def _params(group: Group) -> dict[str, str]:
    params = {"label": group.label, "method": group.method, "regime": group.regime or "any", "seed": "mean"}
    return params | {f"params.{key}": str(value) for key, value in group.rows[0].params.items()}


def _means(group: Group) -> list[MetricPoint]:
    """Every metric that is defined, those that matter most first; then the halves of the intervals."""
    points, halves = [], []
    for name in (*HEADLINE, *(name for name in describe() if name not in HEADLINE)):
        if (interval := aggregate(group, name).interval) is None:
            continue
        points.append(MetricPoint(name, round(interval.mean, DIGITS)))
        if name in HEADLINE and interval.half_width is not None:
            halves.append(MetricPoint(f"interval_95/{name}", round(interval.half_width, DIGITS)))
    return [*points, *halves, MetricPoint("elapsed_s", round(_elapsed_s(group), DIGITS))]


def _elapsed_s(group: Group) -> float:
    return sum(row.elapsed_s for row in group.rows) / len(group.rows)


def _curves(group: Group, tasks: Sequence[str]) -> list[MetricPoint]:
    """Mean accuracy on each task, and on those seen so far, at each stage of the sequence."""
    accuracy = np.round(group.matrices().mean(axis=0), DIGITS)
    points = []
    for stage, row in enumerate(accuracy, 1):
        points += [
            MetricPoint(f"accuracy/{task}", float(value), stage)
            for task, value in zip(tasks, row, strict=True)
            if not np.isnan(value)
        ]
        seen = float(np.mean(row[:stage]))
        points += [] if np.isnan(seen) else [MetricPoint("accuracy_on_seen", round(seen, DIGITS), stage)]
    return points


def _forgetting(group: Group) -> tuple[bool, float, str]:
    interval = aggregate(group, "forgetting").interval
    return (interval is None, interval.mean if interval else 0.0, group.label)


def _seeds(group: Group) -> str:
    seeds = [str(row.seed) for row in group.rows if row.seed is not None]
    return f"seeds {', '.join(seeds)}" if len(seeds) > 1 else f"one seed ({seeds[0]})" if seeds else "nothing"


def _view_state(run: Run) -> dict[str, Any]:
    """What MLflow's page of runs keeps of filter, order, columns and charts."""
    metrics = ("forgetting", "interval_95/forgetting", *HEADLINE[1:5])
    columns = ["attributes.`Run Name`", *(f"metrics.`{name}`" for name in metrics), "params.`regime`"]
    section = {"uuid": VIEW, "name": VIEW_TITLE, "display": True, "isReordered": False, "deleted": False}
    return {
        "searchFilter": f"tags.`mergeline.kind` = '{KIND}' and tags.`mergeline.run` = '{run.run_id}'",
        "orderByKey": "metrics.`forgetting`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns[1:],
        "columnOrder": columns,
        "columnWidths": {columns[0]: 240},
        "runsHiddenMode": "SHOWALL",
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "isAccordionReordered": True,  # else the section goes behind those that MLflow makes
        "compareRunSections": [{**section, "isGenerated": False}],
        "compareRunCharts": [_chart("BAR", metricKey=name) for name in BARS]
        + [
            _chart(
                "SCATTER",
                xaxis={"key": "average_accuracy", "type": "METRIC"},
                yaxis={"key": "forgetting", "type": "METRIC"},
            ),
            _chart("LINE", metricKey="accuracy_on_seen", **LINE),
        ],
    }


LINE = {
    "selectedMetricKeys": ["accuracy_on_seen"],
    "lineSmoothness": 0,
    "xAxisScaleType": "linear",
    "scaleType": "linear",
    "range": {},
    "xAxisKey": "step",
    "selectedXAxisMetricKey": "",
    "yAxisKey": "metric",
    "yAxisExpressions": [],
}


def _chart(kind: str, **settings: Any) -> dict[str, Any]:
    name = f"{VIEW}-{kind.lower()}-{settings.get('metricKey', 'pair')}"
    common = {"uuid": name, "type": kind, "runsCountToCompare": 50, "metricSectionId": VIEW}
    return {**common, "deleted": False, "isGenerated": False, "useGlobalXaxisKey": True, **settings}


def _packed(state: dict[str, Any]) -> str:
    """As MLflow's pages store a view."""
    return "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
