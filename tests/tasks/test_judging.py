"""Scores of an outside judge beside a run: in its folder, and in a real MLflow store."""

import json
import shutil

import pytest
import torch
from mlflow import MlflowClient

from merge_lib.checkpoints import write_state_dict
from merge_lib.workloads.pretrained.judging import Judgement
from tasks.judging import record_judgements
from tasks.payloads import RunPayload
from tasks.project import Project
from tasks.runs import outbox_of, start_run


@pytest.fixture
def project(tmp_path, migrated_store, monkeypatch) -> Project:
    """With one run, which MLflow is to be told of."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    project = Project(tmp_path)
    project.state.mkdir()
    shutil.copy(migrated_store, project.state / "mlflow.db")
    run = start_run(project, "texts", {}, "mergeline run studies/texts.yaml")
    started = RunPayload(run.run_id, "texts", run.run_id, None, {}, {}, started_ms=1_000, ended_ms=2_000)
    outbox_of(project, run.run_id).put(started)
    return project


def judgement(task: str, value: float) -> Judgement:
    return Judgement(task, "acc", "none", value, None, True, 3, 0, "1.0")


def test_scores_are_kept_in_the_folder_and_in_mlflow(project, tmp_path):
    checkpoint = write_state_dict(tmp_path / "m.safetensors", {"w": torch.ones(2)}, lineage={}).path
    record_judgements(project, "latest", checkpoint, [judgement("arc", 0.25)], started_s=3.0)
    told = record_judgements(project, "latest", checkpoint, [judgement("piqa", 0.5)], started_s=4.0)
    assert told.refused is None
    kept = json.loads(told.path.read_text())
    assert {key: score["value"] for key, score in kept["scores"].items()} == {
        "judged/arc/acc/none": 0.25,
        "judged/piqa/acc/none": 0.5,
    }
    client = MlflowClient(project.tracking_uri)
    experiment = client.get_experiment_by_name("texts").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    child = runs.pop(f"judged · {tmp_path.name}")
    (parent,) = runs.values()
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["digest"] == kept["digest"]
    assert child.data.metrics == {"judged/arc/acc/none": 0.25, "judged/piqa/acc/none": 0.5}


def test_scores_wait_where_mlflow_is_out_of_reach(project, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    checkpoint = write_state_dict(tmp_path / "m.safetensors", {"w": torch.ones(2)}, lineage={}).path
    told = record_judgements(project, "latest", checkpoint, [judgement("arc", 0.25)], started_s=3.0)
    assert "MLflow at http://127.0.0.1:9 did not take the record" in told.refused
    assert len(list(outbox_of(project, told.run_id).waiting())) == 2
