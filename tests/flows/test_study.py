"""The study flow for real: a Prefect server, DVC, MLflow, a model of two layers."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from typer.main import get_command

from flows.cli import make_app
from flows.config import load_study
from flows.estimates import Estimates, plan_steps, summarise_plan
from flows.lineage import lineage_lines, lineage_of
from flows.stages import setting_of
from merge_lib.checkpoints import read_state_dict, verify, write_state_dict
from merge_lib.errors import CheckpointError, MergeError
from tasks.evaluation import evaluation_key
from tasks.journal import results_of
from tasks.project import Project
from tasks.runs import load_run
from tasks.versioning import _remember

pytestmark = pytest.mark.slow


def digests(project: Project, run_id: str) -> dict:
    rows = results_of(project, run_id).rows
    return {(row.label, row.regime, row.seed): [ref.digest for ref in row.checkpoints] for row in rows}


def test_a_study_from_data_to_report_and_a_second_run_that_works_nothing(project, run):
    first, worked = run()
    results = results_of(project, first)
    assert {(row.label, row.regime) for row in results.rows} == {
        ("base", None),
        ("sequential", "sequential"),
        ("expert", "parallel"),
        ("joint", None),
        ("average", "sequential"),
        ("average", "parallel"),
        ("task_arithmetic", "sequential"),
        ("task_arithmetic", "parallel"),
    }
    # the first expert is the same in both regimes and in joint training, and stands in the store once
    assert worked["train"] == 4
    assert worked["merge"] == 6
    for row in results.rows:
        assert len(row.accuracy) == 2
        for ref in row.checkpoints:
            assert verify(project.root / ref.path).digest == ref.digest
    assert (project.runs / first / "report" / "report.html").stat().st_size > 10_000
    assert json.loads((project.root / "results" / "metrics.json").read_text())["average"]["parallel"]

    second, worked = run()
    assert worked == Counter()
    assert digests(project, second) == digests(project, first)
    assert load_run(project, second).unchanged_since == first

    third, worked = run("methods.task_arithmetic.params.scale=0.7")
    assert worked["train"] == worked["pretrain"] == 0
    assert worked["merge"] == 3  # one method, two regimes, two stages, of which the first is the same
    changed = {key for key, made in digests(project, third).items() if made != digests(project, first)[key]}
    assert changed == {("task_arithmetic", "sequential", 0), ("task_arithmetic", "parallel", 0)}
    _check_mlflow(project, first, second)


def told(project: Project, run_id: str) -> dict:
    """What a run measured, and on what."""
    rows = results_of(project, run_id).rows
    return {
        (row.label, row.regime, row.seed): (
            row.accuracy,
            row.metrics,
            [ref.digest for ref in row.checkpoints],
        )
        for row in rows
    }


def files_of_merges(project: Project) -> list[Path]:
    return sorted(project.store.glob("merge/*/*.safetensors"))


METHODS = "methods=[average, task_arithmetic, ties, dare, magmax, opcm, {method: condu, params: {task: 0}}]"


def test_a_study_without_stored_merges_measures_the_same(project, tiny_project, monkeypatch, run):
    asked = (METHODS, "references=[]", "audit=false")
    first, unkept = run(*asked, "keep_merged=false")
    assert files_of_merges(project) == []
    again, worked = run(*asked, "keep_merged=false")
    assert worked == Counter()
    assert load_run(project, again).unchanged_since == first

    kept, worked = run(*asked)
    assert worked == {"merge": unkept["merge"]}  # the evaluations of the run before count
    assert told(project, kept) == told(project, first)
    assert len(files_of_merges(project)) == unkept["merge"]
    last, worked = run(*asked, "keep_merged=false")
    assert worked == Counter()
    assert told(project, last) == told(project, first)
    assert len(files_of_merges(project)) == unkept["merge"]  # what is kept stays

    other = Project(tiny_project("other"))
    monkeypatch.chdir(other.root)
    alone, counted = run(*asked)
    assert counted == unkept
    assert told(other, alone) == told(project, first)


@pytest.mark.parametrize("kept", ["true", "false"])
def test_experts_start_from_the_merges_of_one_method(project, kept, run):
    asked = (
        "methods=[magmax, average]",
        "regimes=[sequential, merged]",
        "merged_from=magmax",
        "references=[]",
    )
    run_id, worked = run(*asked, f"keep_merged={kept}")
    results = results_of(project, run_id)
    rows = {(row.label, row.regime): row for row in results.rows}
    assert set(rows) == {
        ("base", None),
        *((label, "sequential") for label in ("sequential", "magmax", "average")),
        *((label, "merged") for label in ("latest", "magmax", "average")),
    }
    assert worked["train"] == 3  # the first expert is the same in both regimes
    latest, merges = (rows[label, "merged"].checkpoints for label in ("latest", "magmax"))
    assert rows["average", "merged"].checkpoints[0].digest == latest[0].digest  # the mean of one is that one
    record = json.loads((project.root / latest[1].path).with_name("record.json").read_text())
    assert merges[0].digest in record["inputs"].values()
    state = rows["magmax", "merged"].checkpoints[1].state_bytes
    assert state == rows["magmax", "merged"].checkpoints[0].state_bytes > 0
    assert (merges[1].path is not None) == (kept == "true")
    report = (project.runs / run_id / "report" / "report.md").read_text()
    assert "Latest expert, trained from the merge before it" in report
    config = load_study(Path("studies/digits.yaml"), (*asked, f"keep_merged={kept}"))
    assert all(step.is_cached for step in plan_steps(project, config)[0])
    again, worked = run(*asked, f"keep_merged={kept}")
    assert worked == Counter()
    assert load_run(project, again).unchanged_since == run_id


def test_an_unkept_merge_whose_scores_are_gone_is_made_again(project, run):
    asked = ("methods=[task_arithmetic]", "regimes=[parallel]", "references=[]", "keep_merged=false")
    first, _ = run(*asked)
    ref = next(row for row in results_of(project, first).rows if row.label == "task_arithmetic").checkpoints[
        1
    ]
    assert ref.path is None
    setting = setting_of(project, load_study(Path("studies/digits.yaml")), results_of(project, first).data)
    (project.store / "evaluate" / evaluation_key(setting, ref.digest)[0] / "record.json").unlink()
    second, worked = run(*asked)
    assert worked == {"merge": 1, "evaluate": 1}
    assert told(project, second) == told(project, first)


def test_the_plan_counts_no_bytes_of_merges_that_are_not_kept(project, run):
    def planned(*overrides: str) -> dict:
        steps, _ = plan_steps(project, load_study(Path("studies/digits.yaml"), overrides))
        lines = summarise_plan(steps, Estimates.of_project(project, steps))
        return {line["kind"]: line for line in lines}

    assert planned()["merge"]["estimated_bytes"] > 0
    before = planned("keep_merged=false")
    assert before["merge"]["estimated_bytes"] == before["evaluate"]["estimated_bytes"] == 0
    assert before["train"]["estimated_bytes"] > 0
    states = planned("keep_merged=false", "methods=[magmax]")["merge"]["estimated_bytes"]
    assert planned("methods=[magmax]")["merge"]["estimated_bytes"] == 2 * states > 0
    run("keep_merged=false")
    assert {line["to_run"] for line in planned("keep_merged=false").values()} == {0}
    after = planned()
    assert after["merge"]["to_run"] == after["merge"]["steps"]
    assert after["merge"]["estimated_bytes"] > 0
    assert after["evaluate"]["to_run"] == after["train"]["to_run"] == 0


def test_lineage_report_record_and_verify_say_that_a_merge_is_not_kept(project, run):
    run_id, _ = run("keep_merged=false", "regimes=[parallel]", "references=[]")
    results = results_of(project, run_id)
    entry = lineage_of(project, results, "task_arithmetic")[0]
    model = entry["model"]
    assert model["path"] is None
    assert (model["params"]["method"], model["made_by"]) == ("task_arithmetic", "merge")
    assert set(model["from"]) == {"base", "expert_0", "expert_1"}
    text = "\n".join(lineage_lines([entry]))
    assert f"{model['digest']}  not kept  [merge task_arithmetic(" in text
    report = (project.runs / run_id / "report" / "report.md").read_text()
    assert "evaluated as they were made and not kept" in report
    assert "mergeline run digits.yaml --set keep_merged=true" in report

    answer = CliRunner().invoke(get_command(make_app()), ["lineage", run_id, "--label", "average"])
    again = "mergeline run studies/digits.yaml --set 'regimes=[parallel]' --set 'references=[]' --set keep_merged=true"
    assert again in answer.output
    place = project.store / "merge" / model["key"] / "model.safetensors"
    answer = CliRunner().invoke(get_command(make_app()), ["verify", str(place)])
    assert isinstance(answer.exception, CheckpointError)
    assert f"The merge's digest is {model['digest']}" in str(answer.exception)

    client = MlflowClient(project.tracking_uri)
    experiment = client.get_experiment_by_name("digits")
    tags = [found.tags for found in client.search_logged_models([experiment.experiment_id])]
    recorded = next(tag for tag in tags if tag["digest"] == model["digest"])
    assert recorded["uri"] == "not kept"
    assert json.loads(recorded["recipe"])["method"] == "task_arithmetic"
    assert recorded["make_again"].startswith("mergeline run studies/digits.yaml")

    run("keep_merged=true", "regimes=[parallel]", "references=[]")
    kept = lineage_of(project, results, "task_arithmetic")[0]["model"]
    assert verify(project.root / kept["path"]).digest == model["digest"]


BURSTING = """
from merge_lib import merge_method

@merge_method(name="bursting", title="Bursting", paper="https://example.org", needs_base=True, order_free=True)
def bursting(task_vectors):
    \"\"\"Infinite.\"\"\"
    return task_vectors.sum(0) / 0
"""


def test_a_merge_that_cannot_be_made_does_not_hold_up_the_others_when_none_is_kept(
    project, prefect_server, run
):
    (project.root / "bursting.py").write_text(BURSTING)
    asked = ("regimes=[parallel]", "references=[]", "keep_merged=false")
    settings = ("methods=[average, bursting, magmax]", "plugins=[bursting.py]", *asked)
    command = [sys.executable, "-m", "flows.cli", "run", "studies/digits.yaml"]
    done = subprocess.run(  # in a process of its own: the plugin would stay registered in this one
        [*command, *(word for setting in settings for word in ("--set", setting))],
        env={**os.environ, "PREFECT_API_URL": prefect_server, "COLUMNS": "500"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "bursting · parallel 1/2 · seed 0: Tensor" in done.stderr
    _, worked = run("methods=[average, magmax]", *asked)
    assert worked == Counter({"audit": 2})  # an audit waits for all merges of its stage


def _check_mlflow(project: Project, first: str, second: str) -> None:
    client = MlflowClient(project.tracking_uri)
    experiment = client.get_experiment_by_name("digits")
    runs = client.search_runs([experiment.experiment_id], max_results=500)
    parents = {run.info.run_name: run for run in runs if "mlflow.parentRunId" not in run.data.tags}
    assert parents[second].data.tags["mergeline.unchanged_since"] == first
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parents[first].info.run_id]
    assert not [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parents[second].info.run_id]
    kinds = Counter(run.data.tags["mergeline.kind"] for run in children)
    assert kinds == {"merge": 4, "reference": 4, "expert": 6, "comparison": 8, "landscape": 2}
    merge = next(
        run
        for run in children
        if run.data.tags["mergeline.kind"] == "merge"
        and (run.data.params["label"], run.data.params["regime"]) == ("average", "parallel")
    )
    expert = next(run for run in children if run.data.tags["mergeline.kind"] == "expert")
    for name in ("loss", "learning_rate", "gradient_norm"):
        points = client.get_metric_history(expert.info.run_id, f"training/{name}")
        assert [point.step for point in points] == list(range(1, len(points) + 1))
        assert all(point.value >= 0 for point in points)
    steps = client.get_metric_history(merge.info.run_id, "accuracy/digits-01")
    assert sorted(point.step for point in steps) == [1, 2]
    assert len(merge.outputs.model_outputs) == 2
    assert parents[first].inputs.dataset_inputs
    assert "report.html" in {file.path for file in client.list_artifacts(parents[first].info.run_id)}


def test_changed_data_runs_what_depends_on_it_and_is_in_the_record(project, run):
    before, _ = run()
    params = (project.root / "params.yaml").read_text()
    (project.root / "params.yaml").write_text(params.replace('classes: ["2", "3"]', 'classes: ["2", "5"]'))
    after, worked = run()
    was, now = results_of(project, before).data, results_of(project, after).data
    assert {name for name in now if now[name] != was[name]} == {"digits-23"}
    assert worked["pretrain"] == 0


def test_nan_in_an_expert_is_told_and_the_rest_is_finished(project, run):
    run_id, _ = run("methods=[average]", "regimes=[parallel]", "references=[]")
    ref = next(row for row in results_of(project, run_id).rows if row.label == "expert").checkpoints[1]
    path = project.root / ref.path
    tensors = read_state_dict(path)
    name = sorted(tensors)[0]
    tensors[name] = tensors[name] * float("nan")
    size = path.stat().st_size
    write_state_dict(path, tensors, lineage={})
    record = path.with_name("record.json")
    record.write_text(
        record.read_text().replace(
            f'"model.safetensors": {size}', f'"model.safetensors": {path.stat().st_size}'
        )
    )
    with pytest.raises(MergeError, match=rf"'{name}'.*NaN|NaN.*{name}"):
        run("methods=[task_arithmetic]", "regimes=[parallel]", "references=[]")


@pytest.mark.parametrize("damage", ["truncated", "gone"])
def test_a_damaged_checkpoint_is_made_again(project, damage, run):
    asked = ("methods=[average]", "regimes=[sequential]", "references=[]")
    first, _ = run(*asked)
    ref = next(row for row in results_of(project, first).rows if row.label == "sequential").checkpoints[0]
    path = project.root / ref.path
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:1000])
    second, worked = run(*asked)
    assert worked["train"] == 1
    assert digests(project, second) == digests(project, first)


def test_a_study_goes_on_without_mlflow(project, monkeypatch, run):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    run_id, _ = run("methods=[average]", "regimes=[parallel]")
    assert load_run(project, run_id).status == "finished"
    waiting = list((project.runs / run_id / "tracking").glob("[0-9]*.json"))
    assert len(waiting) == 2 + 4 + 4 + 4 + 1  # begin and end, rows, their means, checkpoints, the landscape
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    from tasks.tracking import deliver_all

    assert deliver_all(project) == [{"run": run_id, "delivered": len(waiting), "waiting": 0, "failure": None}]


def test_data_that_no_stage_makes_is_refused(project, run):
    with pytest.raises(
        MergeError, match=r"needs the data snapshots digits-99, which no stage of dvc\.yaml makes"
    ):
        run("tasks=[digits-01, digits-99]")
    assert load_run(project, "latest").status == "failed"


def test_a_resumed_run_keeps_its_name_and_settings(project, run):
    with pytest.raises(MergeError):
        run("tasks=[digits-01, digits-99]")
    broken = sorted(path.name for path in project.runs.iterdir())[-1]
    assert Path(project.runs / broken / "run.json").is_file()
    run_id, _ = run("methods=[average]", "regimes=[parallel]", "references=[]")
    again, worked = run(run_id=run_id)
    assert again == run_id
    assert worked == Counter()
    assert [entry["label"] for entry in load_run(project, again).config["methods"]] == ["average"]


def test_remembered_data_survives_a_copy(project, run):
    _remember(project, pushed=True)
    run_id, _ = run("methods=[average]", "regimes=[parallel]", "references=[]")
    assert set(load_run(project, run_id).data) == {"glyphs", "digits-01", "digits-23"}
