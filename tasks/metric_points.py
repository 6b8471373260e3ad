"""The metrics that MLflow is told of rows, trainings and landscapes, as points for its charts."""

import math
from collections.abc import Mapping, Sequence

from merge_lib.maps import MEAN, Landscape
from merge_lib.results import AuditSummary, ForgettingSummary, RoutedStage, Row
from tasks.comparison import HEADLINE
from tasks.jobs import Finished
from tasks.payloads import MetricPoint, ModelPayload
from tasks.records import Record

FORGETTING_METRICS = ("forgotten", "gained", "shared_share", "shared_kept", "specific_kept")


def row_metrics(row: Row, tasks: Sequence[str], models: Sequence[ModelPayload]) -> list[MetricPoint]:
    """The metrics of the whole sequence without a step, so that the pages draw bars; then the stages."""
    ordered = dict.fromkeys((*HEADLINE, *row.metrics))
    defined = {name: value for name in ordered if (value := row.metrics.get(name)) is not None}
    points = [MetricPoint(name, value) for name, value in defined.items()]
    points.append(MetricPoint("elapsed_s", row.elapsed_s))
    last = row.checkpoints[-1]
    points.append(MetricPoint("size_bytes", last.size_bytes))
    if last.state_bytes is not None:
        points.append(MetricPoint("state_bytes", last.state_bytes))
    for stage, accuracies in enumerate(row.accuracy, 1):
        digest = models[min(stage, len(models)) - 1].digest
        points += [
            MetricPoint(f"accuracy/{name}", value, stage, digest)
            for name, value in zip(tasks, accuracies, strict=True)
        ]
        points.append(MetricPoint("accuracy_on_seen", sum(accuracies[:stage]) / stage, stage, digest))
    for stage, probes in enumerate(row.probes, 1):
        digest = models[min(stage, len(models)) - 1].digest
        points += [MetricPoint(f"probe/{name}", value, stage, digest) for name, value in probes.items()]
    return points


def taught_metrics(done: Finished, record: Record | None) -> list[MetricPoint]:
    """What a learner was shown of earlier tasks, and each of its fusions."""
    shown = done.taught or {}
    points = [MetricPoint(name, shown[name]) for name in ("memory_examples", "memory_bytes") if name in shown]
    for step, fusion in enumerate(record.values.get("fusions", ()) if record else (), 1):
        points += [MetricPoint(f"fusion/{name}", value, step) for name, value in sorted(fusion.items())]
    return points


def audit_metrics(audit: AuditSummary | None) -> list[MetricPoint]:
    """What the last merge kept of the tasks, on average and of the worst, and how much of their energy was outvoted."""
    if audit is None or not (kept := audit.of_tasks("energy kept")):
        return []
    outvoted = audit.of_tasks("outvoted energy")
    return [
        MetricPoint("audit/energy_kept_mean", sum(kept) / len(kept)),
        MetricPoint("audit/energy_kept_min", min(kept)),
        MetricPoint("audit/outvoted_energy_mean", sum(outvoted) / len(outvoted)),
    ]


def training_curves(curves: Mapping[str, Sequence[float]]) -> list[MetricPoint]:
    """Loss, learning rate and gradient norm along the steps."""
    return [
        MetricPoint(f"training/{name}", value, step)
        for name in ("loss", "learning_rate", "gradient_norm")
        for step, value in zip(curves.get("step", ()), curves.get(name, ()), strict=True)
    ]


def landscape_metrics(found: Landscape) -> list[MetricPoint]:
    """Means over the pairs of experts, barriers by leg, the loss and accuracy of every point along the path."""
    points = []
    for measure in ("cosine", "sign conflict", "overlap"):
        value = found.conflicts and found.conflicts.mean(measure)
        if value is not None:
            points.append(MetricPoint(f"conflicts/{measure.replace(' ', '_')}_mean", value))
    if (path := found.path) is not None:
        barriers = path.barriers()
        points += [MetricPoint("path/barrier", value, leg) for leg, value in enumerate(barriers, 1)]
        if all(map(math.isfinite, barriers)):
            points.append(MetricPoint("path/barrier_max", max(barriers)))
        for name, values in (("loss", path.loss_on(MEAN)), ("accuracy", path.accuracy_on(MEAN))):
            points += [MetricPoint(f"path/{name}", value, step) for step, value in enumerate(values)]
    return [point for point in points if math.isfinite(point.value)]


def forgetting_metrics(forgetting: ForgettingSummary | None) -> list[MetricPoint]:
    """What the last merge forgot, on average over the tasks."""
    if forgetting is None:
        return []
    measured = {name: forgetting.of_tasks(name.replace("_", " ")) for name in FORGETTING_METRICS}
    return [
        MetricPoint(f"forgetting/{name}_mean", sum(values) / len(values))
        for name, values in measured.items()
        if values
    ]


def routing_metrics(routed: Sequence[RoutedStage]) -> list[MetricPoint]:
    """At each stage how often inputs of a task seen are nearest to its prototypes, and what is kept, in bytes."""
    points = []
    for stage, one in enumerate(routed, 1):
        points += [MetricPoint(f"routing/{task}", share, stage) for task, share in one.right.items()]
        if one.right:
            points.append(MetricPoint("routing/mean", sum(one.right.values()) / len(one.right), stage))
        points += [MetricPoint(f"kept/{part}", size, stage) for part, size in one.kept.items()]
        points.append(MetricPoint("kept/all", sum(one.kept.values()), stage))
    return points
