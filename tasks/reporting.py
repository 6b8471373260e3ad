"""From finished work to results, to MLflow's record and to the report."""

import csv
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from merge_lib.metrics import summarise
from merge_lib.results import CheckpointRef, Row, StudyResults, Taught
from tasks.jobs import Finished, Scores
from tasks.project import Project

MEANINGFUL = {"base": ("average_accuracy", "worst_task_accuracy"), "expert": ("learning_accuracy",)}


def make_row(
    project: Project,
    fields: dict[str, Any],
    checkpoints: Sequence[Finished],
    scores: Sequence[Scores],
    stages: int,
) -> Row:
    """A row of the results, its metrics still empty; the base's one checkpoint stands for every stage.

    Coefficients that were found stand among its parameters, as they are at the last stage.
    """
    accuracy = [list(score.accuracy) for score in scores]
    probes = [score.probes for score in scores] if any(score.probes for score in scores) else []
    if len(accuracy) == 1 < stages:
        accuracy, probes = accuracy * stages, probes * stages
    refs = [_ref(project, done) for done in checkpoints]
    elapsed_s = sum(done.elapsed_s for done in checkpoints)
    if refs[-1].search is not None:
        fields = {**fields, "params": {**fields["params"], **refs[-1].search.values}}
    routed = [done.routed for done in checkpoints if done.routed is not None]
    measured = {"accuracy": accuracy, "probes": probes, "routed": routed}
    return Row(**fields, **measured, elapsed_s=elapsed_s, checkpoints=refs)


def _ref(project: Project, done: Finished) -> CheckpointRef:
    path = None if done.path is None else _place(project, done.path)
    record = "" if done.kind == "base" else f"{done.kind}/{done.key}"
    taught = None if done.taught is None else Taught(**done.taught)
    return CheckpointRef(
        path, done.digest, done.size_bytes, done.state_bytes, record, done.search, done.learning, taught
    )


def _place(project: Project, path: str) -> str:
    try:
        return project.relative(Path(path))
    except ValueError:
        return path


class Metrics:
    """Fills in the rows' metrics from the references of the same seed, which come before the merges."""

    def __init__(self) -> None:
        self.bases: dict[int | None, list[float]] = {}  # None: one base for all seeds
        self.experts: dict[int | None, list[float]] = {}
        self.joint: dict[int | None, list[float]] = {}

    def fill(self, row: Row) -> Row:
        """The row with its metrics; references are remembered."""
        if row.method == "base":
            self.bases[row.seed] = row.accuracy[-1]
        elif row.method == "expert":
            self.experts[row.seed] = [row.accuracy[k][k] for k in range(len(row.accuracy))]
        elif row.method == "joint":
            self.joint[row.seed] = [row.accuracy[k][k] for k in range(len(row.accuracy))]
        before = self.bases.get(row.seed, self.bases.get(None))
        values = summarise(
            row.accuracy, before=before, experts=self.experts.get(row.seed), joint=self.joint.get(row.seed)
        )
        if row.method in MEANINGFUL:
            values = {
                name: value if name in MEANINGFUL[row.method] else None for name, value in values.items()
            }
        return replace(row, metrics=values)


def save_for_dvc(project: Project, results: StudyResults) -> None:
    """The files that `dvc metrics show` and `dvc plots` read: the means over seeds, and every accuracy."""
    folder = project.root / "results"
    folder.mkdir(exist_ok=True)
    means: dict[str, Any] = {}
    for row in results.rows:
        cell = means.setdefault(row.label, {}).setdefault(row.regime or "any", {})
        for name in ("average_accuracy", "forgetting", "backward_transfer", "learning_accuracy"):
            if (value := row.metrics.get(name)) is not None:
                cell.setdefault(name, []).append(value)
    rounded = {
        label: {
            regime: {name: round(sum(values) / len(values), 6) for name, values in cell.items()}
            for regime, cell in regimes.items()
        }
        for label, regimes in means.items()
    }
    (folder / "metrics.json").write_text(
        json.dumps(rounded, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    with (folder / "accuracy.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "regime", "seed", "stage", "task", "accuracy"])
        for row in results.rows:
            for stage, accuracies in enumerate(row.accuracy, 1):
                for task, accuracy in zip(results.tasks, accuracies, strict=True):
                    seed = "" if row.seed is None else row.seed
                    writer.writerow([row.label, row.regime or "any", seed, stage, task, round(accuracy, 6)])


def now_ms() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return int(time.time() * 1000)
