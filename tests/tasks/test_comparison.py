"""What MLflow's pages compare: means over seeds by hand, the saved view, the description."""

import base64
import json
import shutil
import zlib
from pathlib import Path

import pytest
from mlflow import MlflowClient

from merge_lib.metrics import summarise
from merge_lib.results import CheckpointRef, Row, StudyResults
from tasks.comparison import VIEW_TAG, VIEW_TITLE, comparison_runs, experiment_tags, summary_note
from tasks.payloads import Outbox, RunPayload
from tasks.project import Project
from tasks.runs import Run
from tasks.tracking import MlflowTracker

RUN = Run(
    "digits-1", "digits", {"description": "Two tasks."}, "mergeline run", "", "2026-01-01T00:00:00+00:00"
)
KEPT = [[0.9, 0.1], [0.9, 0.8]]  # forgets nothing
LOST = {0: [[0.9, 0.1], [0.7, 0.8]], 1: [[0.8, 0.1], [0.7, 0.8]]}  # forgets 0.2 and 0.1


def row(label: str, regime: str, seed: int, accuracy: list[list[float]]) -> Row:
    ref = CheckpointRef("m", "xxh3:" + "0" * 32, 10)
    metrics = summarise(accuracy)
    return Row(label, "merge", label, regime, seed, {"scale": 0.5}, accuracy, 2.0 + seed, [ref, ref], metrics)


@pytest.fixture
def results() -> StudyResults:
    rows = [row("ties", "parallel", seed, LOST[seed]) for seed in (0, 1)]
    rows += [row("average", "parallel", seed, KEPT) for seed in (0, 1)]
    rows.append(
        Row("base", "reference", "base", None, None, {}, [[0.5, 0.5]] * 2, 1.0, [], {"average_accuracy": 0.5})
    )
    return StudyResults(
        study="digits",
        run_id="digits-1",
        description="Two tasks.",
        workload="vision",
        scenario="task-incremental",
        tasks=["digits-01", "digits-23"],
        seeds=[0, 1],
        chance=[0.5, 0.5],
        data={},
        config={},
        environment={},
        started_at="2026-01-01T00:00:00+00:00",
        elapsed_s=9.0,
        rows=rows,
    )


def test_each_method_and_regime_is_a_run_with_the_means_over_the_seeds(results):
    payloads = {payload.name: payload for payload in comparison_runs(RUN, results, now_ms=10_000)}
    assert set(payloads) == {"ties · parallel", "average · parallel", "Base"}
    ties = payloads["ties · parallel"]
    finals = {point.key: point.value for point in ties.metrics if point.step == 0}
    assert finals["forgetting"] == pytest.approx(0.15)
    assert finals["average_accuracy"] == pytest.approx(0.75)
    assert finals["interval_95/forgetting"] == pytest.approx(0.6353)  # t of 0.975 with 1 degree is 12.706
    assert finals["elapsed_s"] == 2.5
    assert next(iter(finals)) == "forgetting"
    assert ties.ended_ms - ties.started_ms == 2_500
    stages = {(point.key, point.step): point.value for point in ties.metrics if point.step}
    assert stages[("accuracy/digits-01", 1)] == pytest.approx(0.85)
    assert stages[("accuracy_on_seen", 2)] == pytest.approx(0.75)
    assert ties.params == {
        "label": "ties",
        "method": "ties",
        "regime": "parallel",
        "seed": "mean",
        "params.scale": "0.5",
    }
    assert ties.tags["mergeline.kind"] == "comparison"
    assert ties.tags["mergeline.run"] == "digits-1"
    assert (ties.key, ties.parent) == ("digits-1/comparison/ties/parallel", "digits-1")
    assert "forgetting" not in {point.key for point in payloads["Base"].metrics}


def test_the_description_is_led_by_what_forgets_least(results):
    note = summary_note(results)
    table = [line.strip("| ").split(" | ")[0] for line in note.splitlines() if line.startswith("|")]
    assert table[2:] == ["average · parallel", "ties · parallel", "Base"]
    assert "| ties · parallel | 15.0 ± 63.5 |" in note
    assert VIEW_TITLE in note
    assert note.endswith("Two tasks.")


def test_the_view_shows_this_run_and_sorts_by_forgetting():
    view = json.loads(experiment_tags(RUN, 5)[VIEW_TAG])
    assert (view["name"], view["createdAt"]) == (VIEW_TITLE, 5)
    state = json.loads(zlib.decompress(base64.b64decode(view["state"].removeprefix("deflate;"))))
    assert (
        state["searchFilter"] == "tags.`mergeline.kind` = 'comparison' and tags.`mergeline.run` = 'digits-1'"
    )
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`forgetting`", True)
    assert state["selectedColumns"][0] == "metrics.`forgetting`"
    assert state["compareRunCharts"][0]["metricKey"] == "forgetting"
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == {
        section["uuid"] for section in state["compareRunSections"]
    }


def test_mlflow_finds_by_the_view_what_the_view_promises(
    results, tmp_path, migrated_store: Path, monkeypatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    project = Project(tmp_path)
    project.state.mkdir()
    shutil.copy(migrated_store, project.state / "mlflow.db")
    tracker = MlflowTracker(project, Outbox(tmp_path / "outbox"))
    study = RunPayload(
        "digits-1", "digits", "digits-1", None, {}, {}, 1, 2, experiment_tags=experiment_tags(RUN, 5)
    )
    for payload in [study, *comparison_runs(RUN, results, now_ms=10_000)]:
        tracker.outbox.put(payload)
    tracker.deliver()
    client = MlflowClient(project.tracking_uri)
    experiment = client.get_experiment_by_name("digits")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    state = json.loads(experiment.tags[VIEW_TAG])["state"].removeprefix("deflate;")
    view = json.loads(zlib.decompress(base64.b64decode(state)))
    found = client.search_runs(
        [experiment.experiment_id], view["searchFilter"], order_by=[view["orderByKey"]]
    )
    assert [run.info.run_name for run in found] == ["average · parallel", "ties · parallel", "Base"]
