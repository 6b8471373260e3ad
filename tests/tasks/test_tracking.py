"""The record in a real MLflow store."""

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest
from mlflow import MlflowClient

from tasks.delivery import Courier
from tasks.payloads import DatasetPayload, MetricPoint, ModelPayload, Outbox, RunPayload
from tasks.project import Project
from tasks.tracking import MlflowTracker, _reason, deliver_all, has_record

DIGEST_1, DIGEST_2 = "xxh3:" + "1" * 32, "xxh3:" + "2" * 32


@pytest.fixture
def project(tmp_path, migrated_store, monkeypatch) -> Project:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    project = Project(tmp_path)
    project.state.mkdir()
    shutil.copy(migrated_store, project.state / "mlflow.db")
    return project


def parent(**changes) -> RunPayload:
    fields = {
        "key": "digits-1",
        "experiment": "digits",
        "name": "digits-1",
        "parent": None,
        "tags": {"mergeline.kind": "study"},
        "params": {"seeds": "[0]"},
        "started_ms": 1_000,
        "ended_ms": None,
        "datasets": (DatasetPayload("digits-01", "0123456789abcdef0123456789abcdef", "dvc:digits-01"),),
    }
    return RunPayload(**{**fields, **changes})


def child(key: str, digest: str, ingredients: tuple[str, ...] = ()) -> RunPayload:
    model = ModelPayload(f"model-{key}", "file:///m", digest, 123, 1, {"method": "ties"}, ingredients)
    return parent(
        key=f"digits-1/{key}",
        name=key,
        parent="digits-1",
        ended_ms=2_000,
        metrics=(MetricPoint("accuracy/digits-01", 0.5, 1, digest), MetricPoint("forgetting", 0.25)),
        models=(model,),
        datasets=(),
    )


def tracker_of(project: Project) -> MlflowTracker:
    return MlflowTracker(project, Outbox(project.runs / "digits-1" / "tracking"))


def runs_of(project: Project) -> dict:
    client = MlflowClient(project.tracking_uri)
    experiment = client.get_experiment_by_name("digits")
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def test_a_study_is_recorded_with_children_models_and_data(project, tmp_path):
    report = tmp_path / "report.md"
    report.write_text("# report")
    tracker = tracker_of(project)
    tracker.outbox.put(parent())
    tracker.outbox.put(child("expert", DIGEST_1))
    tracker.outbox.put(child("ties", DIGEST_2, ingredients=(DIGEST_1,)))
    last = (MetricPoint("average_accuracy/ties", 0.5),)
    tracker.outbox.put(parent(ended_ms=3_000, metrics=last, artifacts={str(report): ""}))
    assert tracker.deliver() == 4
    assert list(tracker.outbox.waiting()) == []
    runs = runs_of(project)
    assert set(runs) == {"digits-1", "expert", "ties"}
    assert runs["digits-1"].info.status == "FINISHED"
    assert runs["digits-1"].inputs.dataset_inputs[0].dataset.digest == "0123456789abcdef0123456789abcdef"
    assert runs["ties"].data.tags["mlflow.parentRunId"] == runs["digits-1"].info.run_id
    assert runs["ties"].data.metrics["forgetting"] == 0.25
    client = MlflowClient(project.tracking_uri)
    assert [file.path for file in client.list_artifacts(runs["digits-1"].info.run_id)] == ["report.md"]
    made = client.get_logged_model(runs["ties"].outputs.model_outputs[0].model_id)
    assert made.tags["digest"] == DIGEST_2
    assert made.tags["size_bytes"] == "123"
    assert made.metrics[0].key == "accuracy/digits-01"
    merged = client.get_run(runs["ties"].info.run_id)
    ingredient = client.get_logged_model(merged.inputs.model_inputs[0].model_id)
    assert ingredient.tags["digest"] == DIGEST_1


def test_a_merge_that_was_not_kept_says_so_and_how_it_is_made_again(project):
    payload = child("ties", DIGEST_2)
    origin = {"recipe": '{"method": "ties"}', "make_again": "mergeline run s.yaml --set keep_merged=true"}
    model = replace(payload.models[0], uri=None, origin=origin)
    tracker = tracker_of(project)
    tracker.outbox.put(parent())
    tracker.outbox.put(replace(payload, models=(model,)))
    assert tracker.deliver() == 2
    client = MlflowClient(project.tracking_uri)
    made = client.get_logged_model(runs_of(project)["ties"].outputs.model_outputs[0].model_id)
    assert made.tags["uri"] == "not kept"
    assert made.tags["digest"] == DIGEST_2
    assert made.tags["recipe"] == '{"method": "ties"}'
    assert made.tags["make_again"] == "mergeline run s.yaml --set keep_merged=true"


def test_delivering_twice_changes_nothing(project):
    for _ in range(2):
        tracker = tracker_of(project)
        tracker.outbox.put(parent())
        tracker.outbox.put(child("ties", DIGEST_2))
        tracker.deliver()
    runs = runs_of(project)
    assert len(runs) == 2
    client = MlflowClient(project.tracking_uri)
    assert len(client.search_logged_models([runs["ties"].info.experiment_id])) == 1


def test_a_delivery_that_lost_its_notes_makes_nothing_twice(project):
    for _ in range(2):
        tracker = tracker_of(project)
        for payload in (
            parent(),
            child("expert", DIGEST_1),
            child("ties", DIGEST_2, ingredients=(DIGEST_1,)),
        ):
            tracker.outbox.put(payload)
        tracker.deliver()
        (project.runs / "digits-1" / "tracking" / "ids.json").unlink()
    runs = runs_of(project)
    assert len(runs) == 3
    client = MlflowClient(project.tracking_uri)
    assert len(client.search_logged_models([runs["ties"].info.experiment_id])) == 2
    assert len(client.get_run(runs["ties"].info.run_id).inputs.model_inputs) == 1


def test_one_checkpoint_in_two_stages_is_two_models(project):
    payload = child("linear", DIGEST_1)
    again = replace(payload.models[0], name="model-linear-2", step=2)
    points = tuple(MetricPoint("accuracy/digits-01", 0.5, step, DIGEST_1) for step in (1, 2))
    tracker = tracker_of(project)
    tracker.outbox.put(parent())
    tracker.outbox.put(replace(payload, models=(*payload.models, again), metrics=points))
    assert tracker.deliver() == 2
    assert sorted(output.step for output in runs_of(project)["linear"].outputs.model_outputs) == [1, 2]


def test_records_whose_parent_was_told_to_another_store_are_taken(project, monkeypatch):
    tracker = tracker_of(project)
    tracker.outbox.put(parent())
    assert tracker.deliver() == 1
    other = project.state / "other.db"
    shutil.move(project.state / "mlflow.db", other.with_name("first.db"))
    shutil.copy(other.with_name("first.db"), other)
    with closing(sqlite3.connect(other)) as database:
        for table in ("tags", "params", "inputs", "runs"):
            database.execute(f"delete from {table}")
        database.commit()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other}")
    tracker.outbox.put(child("ties", DIGEST_1))
    tracker.outbox.put(parent(ended_ms=3_000))
    assert tracker_of(project).deliver() == 2
    runs = runs_of(project)
    assert set(runs) == {"digits-1", "ties"}
    assert runs["ties"].data.tags["mlflow.parentRunId"] == runs["digits-1"].info.run_id
    assert runs["digits-1"].data.params == {"seeds": "[0]"}


def test_a_run_is_on_record_only_where_all_of_it_was_told(project, monkeypatch):
    assert not has_record(project, "digits-1")
    tracker = tracker_of(project)
    tracker.outbox.put(parent())
    assert not has_record(project, "digits-1")
    tracker.deliver()
    assert has_record(project, "digits-1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert not has_record(project, "digits-1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (project.state / "mlflow.db").unlink()
    assert not has_record(project, "digits-1")


def test_what_the_server_said_is_told_in_one_line():
    layers = "Max retries exceeded with url: /x (Caused by NewConnectionError('refused'))\nsecond"
    assert _reason(OSError(layers)) == "Max retries exceeded with url: /x"
    assert _reason(OSError("word " * 100)).endswith("word …")
    assert _reason(ValueError()) == "ValueError"


def test_a_run_whose_id_was_lost_is_found_by_its_key(project):
    for payload in (parent(), parent(ended_ms=2_000)):
        tracker = tracker_of(project)
        tracker.outbox.put(payload)
        tracker.deliver()
        (project.runs / "digits-1" / "tracking" / "ids.json").unlink()
    runs = runs_of(project)
    assert len(runs) == 1
    assert runs["digits-1"].info.status == "FINISHED"


def test_records_wait_while_the_server_is_down_and_sync_delivers_them_in_order(project, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # the discard port: nobody listens
    courier = Courier(project, "digits-1")
    courier.record(parent())
    courier.record(child("ties", DIGEST_2))
    said = courier.close()
    assert said is not None
    assert "MLflow at http://127.0.0.1:9 did not take the record 'digits-1'" in said
    assert caplog.text.count("`mergeline sync` delivers them later") == 1
    assert [payload.name for _, payload in courier.outbox.waiting()] == ["digits-1", "ties"]
    assert deliver_all(project)[0]["waiting"] == 2
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert deliver_all(project) == [{"run": "digits-1", "delivered": 2, "waiting": 0, "failure": None}]
    assert set(runs_of(project)) == {"digits-1", "ties"}
    assert deliver_all(project) == []


def test_a_courier_delivers_beside_the_run_and_what_comes_last_wins(project):
    courier = Courier(project, "digits-1")
    courier.record(parent())
    courier.record(child("ties", DIGEST_2))
    courier.record(parent(ended_ms=9_000))
    assert courier.close() is None
    assert list(courier.outbox.waiting()) == []
    runs = runs_of(project)
    assert set(runs) == {"digits-1", "ties"}
    assert runs["digits-1"].info.end_time == 9_000


def test_an_artifact_that_is_gone_is_told(project, caplog):
    tracker = tracker_of(project)
    tracker.outbox.put(parent(artifacts={"nowhere/report.md": ""}))
    tracker.deliver()
    assert "'nowhere/report.md' is gone, so the record of 'digits-1' lacks it." in caplog.text


def test_payloads_survive_their_file(tmp_path):
    payload = child("ties", DIGEST_2, ingredients=(DIGEST_1,))
    assert RunPayload.from_json(payload.to_json()) == payload
    assert json.loads(payload.to_json())["models"][0]["ingredients"] == [DIGEST_1]
