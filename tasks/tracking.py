"""The record in MLflow. The only module that imports mlflow; it uses the client with explicit run ids throughout."""

import json
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from merge_lib.errors import MergeError
from tasks.payloads import ModelPayload, Outbox, RunPayload
from tasks.project import Project

logger = logging.getLogger(__name__)

KEY_TAG = "mergeline.key"
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
BATCH = 900  # MLflow takes 1,000 metrics a call


class TrackingError(MergeError):
    """The tracking server could not be told."""


class Tracker(Protocol):
    """Where runs are recorded."""

    def record(self, payload: RunPayload) -> None:
        """Record one run, now or later."""
        ...


class NullTracker:
    """Records nothing."""

    def record(self, payload: RunPayload) -> None:
        """Do nothing."""


class MlflowTracker:
    """Delivers payloads to MLflow; from the first failure on they wait in the outbox instead."""

    def __init__(self, project: Project, outbox: Outbox) -> None:
        self.outbox = outbox
        self.uri = project.tracking_uri
        self.artifacts = project.state / "mlartifacts"
        self.failure: str | None = None
        self._server: _Server | None = None

    def record(self, payload: RunPayload) -> None:
        """Keep the payload, then deliver all that waits unless the server failed before in this run."""
        self.outbox.put(payload)
        if self.failure is None:
            try:
                self.deliver()
            except TrackingError as failure:
                self.failure = str(failure)
                logger.warning("%s The run goes on; `mergeline sync` delivers the records later.", failure)

    def deliver(self) -> int:
        """Send everything that waits, oldest first; returns how many payloads went.

        Raises:
            TrackingError: the server did not take one; it and the later ones stay.
        """
        sent = 0
        for path, payload in list(self.outbox.waiting()):
            try:
                self._server = self._server or _Server(
                    self.uri, self.artifacts, self.outbox.folder / "ids.json"
                )
                self._server.upsert(payload)
            except Exception as failure:
                said = (
                    str(failure).strip().splitlines()[0] if str(failure).strip() else type(failure).__name__
                )
                raise TrackingError(
                    f"MLflow at {self.uri} did not take the record '{payload.name}': {said[:300]}"
                ) from failure
            path.unlink()
            sent += 1
        return sent

    def run_url(self, key: str) -> str | None:
        """The address of a delivered run in MLflow's pages, if the tracking store is a server."""
        if self._server is None or not self.uri.startswith("http"):
            return None
        run_id = self._server.known_run(key)
        return (
            f"{self.uri.rstrip('/')}/#/experiments/{self._server.experiment_of(key)}/runs/{run_id}"
            if run_id
            else None
        )


class _Server:
    """One tracking store, and the ids that it gave to our keys and digests."""

    def __init__(self, uri: str, artifacts: Path, memory: Path) -> None:
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        logging.getLogger("mlflow").setLevel(logging.CRITICAL)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow import MlflowClient

        if uri.startswith("sqlite:///"):
            Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        self.client = MlflowClient(uri)
        self.local_artifacts = artifacts if uri.startswith("sqlite:") else None
        self.memory = memory
        self.ids: dict[str, str] = {}
        with suppress(OSError, ValueError):
            remembered = json.loads(memory.read_text(encoding="utf-8"))
            self.ids = remembered["ids"] if remembered["uri"] == uri else {}
        self.uri = uri

    def upsert(self, payload: RunPayload) -> None:
        """Make the run in MLflow what the payload says."""
        experiment = self._experiment(payload.experiment)
        for key, value in payload.experiment_tags.items():
            self.client.set_experiment_tag(experiment, key, value)
        run_id = self._run(experiment, payload)
        models = {model.digest: self._model(experiment, run_id, model) for model in payload.models}
        self._metrics_and_params(run_id, payload, models)
        self._lineage(run_id, payload, models)
        for path, place in payload.artifacts.items():
            if Path(path).exists():
                self.client.log_artifact(run_id, path, place or None)
            else:
                logger.warning("'%s' is gone, so the record of '%s' lacks it.", path, payload.name)
        if payload.ended_ms is not None:
            self.client.set_terminated(run_id, "FAILED" if payload.failed else "FINISHED", payload.ended_ms)
        self.memory.write_text(json.dumps({"uri": self.uri, "ids": self.ids}), encoding="utf-8")

    def known_run(self, key: str) -> str | None:
        """The MLflow run id of a key delivered from here."""
        return self.ids.get(f"run:{key}")

    def experiment_of(self, key: str) -> str:
        """The MLflow experiment id of a delivered run."""
        return self.client.get_run(self.ids[f"run:{key}"]).info.experiment_id

    def _experiment(self, name: str) -> str:
        if (known := self.ids.get(f"experiment:{name}")) is None:
            found = self.client.get_experiment_by_name(name)
            place = self.local_artifacts.as_uri() + f"/{name}" if self.local_artifacts else None
            known = (
                found.experiment_id if found else self.client.create_experiment(name, artifact_location=place)
            )
            self.ids[f"experiment:{name}"] = known
        return known

    def _run(self, experiment: str, payload: RunPayload) -> str:
        slot = f"run:{payload.key}"
        if slot not in self.ids:
            found = self.client.search_runs(
                [experiment], f"tags.`{KEY_TAG}` = '{payload.key}'", max_results=1
            )
            tags = {KEY_TAG: payload.key}
            if payload.parent is not None:
                tags["mlflow.parentRunId"] = self.ids[f"run:{payload.parent}"]
            run = (
                found[0]
                if found
                else self.client.create_run(
                    experiment, start_time=payload.started_ms, tags=tags, run_name=payload.name
                )
            )
            self.ids[slot] = run.info.run_id
        return self.ids[slot]

    def _model(self, experiment: str, run_id: str, model: ModelPayload) -> str:
        slot = f"model:{run_id}:{model.digest}:{model.step}"
        if slot not in self.ids:
            tags = {"uri": model.uri, "digest": model.digest, "size_bytes": str(model.size_bytes)}
            made = self.client.create_logged_model(
                experiment,
                name=model.name,
                source_run_id=run_id,
                tags=tags,
                params=model.params,
                model_type="checkpoint",
            )
            self.client.finalize_logged_model(made.model_id, "READY")
            self.ids[slot] = made.model_id
            self.ids.setdefault(f"model:{model.digest}", made.model_id)
        return self.ids[slot]

    def _metrics_and_params(self, run_id: str, payload: RunPayload, models: dict[str, str]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        stamp = payload.ended_ms or payload.started_ms
        metrics = [
            Metric(
                point.key,
                point.value,
                stamp,
                point.step,
                model_id=models.get(point.model or ""),
                run_id=run_id,
            )
            for point in payload.metrics
        ]
        params = [Param(key, value) for key, value in payload.params.items()]
        tags = [RunTag(key, value) for key, value in payload.tags.items()]
        self.client.log_batch(run_id, metrics[:BATCH], params[:90], tags)
        for start in range(90, len(params), 90):
            self.client.log_batch(run_id, params=params[start : start + 90])
        for start in range(BATCH, len(metrics), BATCH):
            self.client.log_batch(run_id, metrics[start : start + BATCH])

    def _lineage(self, run_id: str, payload: RunPayload, models: dict[str, str]) -> None:
        from mlflow.entities import Dataset, DatasetInput, LoggedModelInput, LoggedModelOutput

        ingredients = {
            self.ids[f"model:{digest}"]
            for model in payload.models
            for digest in model.ingredients
            if f"model:{digest}" in self.ids
        }
        datasets = [
            DatasetInput(Dataset(data.name, data.digest, "local", json.dumps({"uri": data.source})))
            for data in payload.datasets
        ]
        if datasets or ingredients:
            inputs = [LoggedModelInput(model_id) for model_id in sorted(ingredients)]
            self.client.log_inputs(run_id, datasets=datasets, models=inputs)
        outputs = [LoggedModelOutput(models[model.digest], model.step) for model in payload.models]
        if outputs:
            self.client.log_outputs(run_id, outputs)


def warm_up(project: Project) -> None:
    """Connect to the tracking store, which makes its tables if it is new."""
    _Server(
        project.tracking_uri, project.state / "mlartifacts", project.state / "none"
    ).client.search_experiments()


def deliver_all(project: Project) -> list[dict[str, Any]]:
    """Deliver what waits of every run of the project.

    Returns:
        One entry a run that had something waiting: run, delivered, waiting, failure (or None).
    """
    told = []
    for folder in sorted(project.runs.glob("*/tracking")):
        outbox = Outbox(folder)
        waiting = sum(1 for _ in outbox.waiting())
        if waiting == 0:
            continue
        failure, sent = None, 0
        try:
            sent = MlflowTracker(project, outbox).deliver()
        except TrackingError as refused:
            failure = str(refused)
            sent = waiting - sum(1 for _ in outbox.waiting())
        told.append(
            {"run": folder.parent.name, "delivered": sent, "waiting": waiting - sent, "failure": failure}
        )
    return told
