"""The record in MLflow. The only module that imports mlflow; it uses the client with explicit run ids throughout."""

import json
import logging
import os
import sqlite3
import textwrap
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from merge_lib.errors import MergeError
from tasks.delivery import sole_courier
from tasks.payloads import MetricPoint, ModelPayload, Outbox, RunPayload
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


class MlflowTracker:
    """Delivers the payloads of an outbox to MLflow."""

    def __init__(self, project: Project, outbox: Outbox) -> None:
        self.outbox = outbox
        self.uri = project.tracking_uri
        self.artifacts = project.state / "mlartifacts"
        self._server: _Server | None = None

    def deliver(self, advance: Callable[[int], None] = lambda _sent: None) -> int:
        """Send everything that waits, oldest first, tell `advance` of each; returns how many payloads went.

        Raises:
            TrackingError: the server did not take one; it and the later ones stay.
        """
        sent = 0
        for path, payload in list(self.outbox.waiting()):
            try:
                self._server = self._server or _Server(self.uri, self.artifacts, self.outbox)
                self._server.upsert(payload)
            except Exception as failure:
                raise TrackingError(
                    f"MLflow at {self.uri} did not take the record '{payload.name}': {_reason(failure)}"
                ) from failure
            path.unlink()
            sent += 1
            advance(1)
        return sent


def _reason(failure: Exception) -> str:
    """The first line of what went wrong; of a connection that failed, without the layers below."""
    first = (str(failure).strip().splitlines() or [type(failure).__name__])[0]
    return textwrap.shorten(first.partition(" (Caused by ")[0], 300, placeholder=" …")


Models = dict[tuple[str, int], str]  # (digest, step) -> MLflow's id


class _Server:
    """One tracking store, and the ids that it gave to our keys and digests."""

    def __init__(self, uri: str, artifacts: Path, outbox: Outbox) -> None:
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        logging.getLogger("mlflow").setLevel(logging.CRITICAL)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow import MlflowClient

        if uri.startswith("sqlite:///"):
            Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        self.client = MlflowClient(uri)
        self.local_artifacts = artifacts if uri.startswith("sqlite:") else None
        self.outbox = outbox
        told, ids = outbox.remembered()
        self.ids = ids if told == uri else {}
        self.uri = uri

    def upsert(self, payload: RunPayload) -> None:
        """Make the run in MLflow what the payload says."""
        experiment = self._experiment(payload.experiment)
        for key, value in payload.experiment_tags.items():
            self.client.set_experiment_tag(experiment, key, value)
        run_id = self._run(experiment, payload)
        there = self._already_there(run_id) if payload.models or payload.datasets else (set(), set())
        models = {
            (model.digest, model.step): self._model(experiment, run_id, model) for model in payload.models
        }
        self._metrics_and_params(run_id, payload, models)
        self._inputs(run_id, payload, there[0])
        self._outputs(run_id, models, there[1])
        for path, place in payload.artifacts.items():
            if Path(path).exists():
                self.client.log_artifact(run_id, path, place or None)
            else:
                logger.warning("'%s' is gone, so the record of '%s' lacks it.", path, payload.name)
        if payload.ended_ms is not None:
            self.client.set_terminated(run_id, "FAILED" if payload.failed else "FINISHED", payload.ended_ms)
        self.outbox.remember(self.uri, self.ids)

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
        tags = {}
        if payload.parent is not None:  # made here if it was told to another store; its end is still to come
            tags["mlflow.parentRunId"] = self._run_of(
                experiment, payload.parent, payload.parent, payload.started_ms, {}
            )
        return self._run_of(experiment, payload.key, payload.name, payload.started_ms, tags)

    def _run_of(self, experiment: str, key: str, name: str, started_ms: int, tags: dict[str, str]) -> str:
        """The id of the run with that key, which is made if there is none."""
        slot = f"run:{key}"
        if slot not in self.ids:
            found = self.client.search_runs([experiment], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
            told = {KEY_TAG: key, **tags}
            run = (
                found[0]
                if found
                else self.client.create_run(experiment, start_time=started_ms, tags=told, run_name=name)
            )
            self.ids[slot] = run.info.run_id
        return self.ids[slot]

    def _model(self, experiment: str, run_id: str, model: ModelPayload) -> str:
        slot = f"model:{run_id}:{model.digest}:{model.step}"
        if slot not in self.ids:
            tags = {"digest": model.digest, "size_bytes": str(model.size_bytes), **model.origin}
            tags["uri"] = "not kept" if model.uri is None else model.uri
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

    def _already_there(self, run_id: str) -> tuple[set[str], set[str]]:
        """Ids of the models that the run names as inputs and as outputs; those are not named again.

        A delivery that was killed half way may have made models whose ids were not kept: they are found here.
        """
        run = self.client.get_run(run_id)
        for output in run.outputs.model_outputs:
            if output.model_id not in self.ids.values():
                digest = self.client.get_logged_model(output.model_id).tags["digest"]
                self.ids[f"model:{run_id}:{digest}:{output.step}"] = output.model_id
                self.ids.setdefault(f"model:{digest}", output.model_id)
        inputs = {model.model_id for model in run.inputs.model_inputs}
        return inputs, {model.model_id for model in run.outputs.model_outputs}

    def _metrics_and_params(self, run_id: str, payload: RunPayload, models: Models) -> None:
        from mlflow.entities import Metric, Param, RunTag

        stamp = payload.ended_ms or payload.started_ms
        metrics = [
            Metric(
                point.key,
                point.value,
                stamp,
                point.step,
                model_id=_model_of(point, models),
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

    def _inputs(self, run_id: str, payload: RunPayload, there: set[str]) -> None:
        """The data snapshots, and the models that the payload's models were made from."""
        from mlflow.entities import Dataset, DatasetInput, LoggedModelInput

        slots = {f"model:{digest}" for model in payload.models for digest in model.ingredients}
        ingredients = {self.ids[slot] for slot in slots if slot in self.ids} - there
        datasets = [
            DatasetInput(Dataset(data.name, data.digest, "local", json.dumps({"uri": data.source})))
            for data in payload.datasets
        ]
        if datasets or ingredients:
            inputs = [LoggedModelInput(model_id) for model_id in sorted(ingredients)]
            self.client.log_inputs(run_id, datasets=datasets, models=inputs)

    def _outputs(self, run_id: str, models: Models, there: set[str]) -> None:
        from mlflow.entities import LoggedModelOutput

        new = [
            LoggedModelOutput(model_id, step)
            for (_, step), model_id in models.items()
            if model_id not in there
        ]
        if new:
            self.client.log_outputs(run_id, new)


def _model_of(point: MetricPoint, models: Models) -> str | None:
    """The model that a metric was measured on: of that digest, and of that step if there are several."""
    if point.model is None:
        return None
    of_digest = {step: model_id for (digest, step), model_id in models.items() if digest == point.model}
    return of_digest.get(point.step) or next(iter(of_digest.values()), None)


def warm_up(project: Project) -> None:
    """Connect to the tracking store, which makes its tables if it is new."""
    artifacts, nothing = project.state / "mlartifacts", Outbox(project.state / "none")
    _Server(project.tracking_uri, artifacts, nothing).client.search_experiments()


def deliver_all(
    project: Project, advance: Callable[[int], None] = lambda _sent: None
) -> list[dict[str, Any]]:
    """Deliver what waits of every run of the project.

    Args:
        project: whose runs.
        advance: told of each record that went.

    Returns:
        One entry a run that had something waiting: run, delivered, waiting, failure (or None).
    """
    told = []
    for folder in sorted(project.runs.glob("*/tracking")):
        outbox = Outbox(folder)
        if (waiting := outbox.count()) == 0:
            continue
        failure, sent = None, 0
        try:
            with sole_courier(outbox):
                sent = MlflowTracker(project, outbox).deliver(advance)
        except TrackingError as refused:
            failure = str(refused)
            sent = waiting - outbox.count()
        told.append(
            {"run": folder.parent.name, "delivered": sent, "waiting": waiting - sent, "failure": failure}
        )
    return told


def count_waiting(project: Project) -> int:
    """How many records of all runs wait."""
    return sum(Outbox(folder).count() for folder in project.runs.glob("*/tracking"))


def has_record(project: Project, run_id: str) -> bool:
    """Whether the tracking store in use was told all of a run; of a file it is also asked whether it has the run."""
    outbox = Outbox(project.runs / run_id / "tracking")
    if outbox.count() or outbox.remembered()[0] != project.tracking_uri:
        return False
    if not project.tracking_uri.startswith("sqlite:///"):
        return True
    path = Path(project.tracking_uri.removeprefix("sqlite:///"))
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=20)) as database:
            asked = "select count(*) from tags where key = ? and value = ?"
            return database.execute(asked, (KEY_TAG, run_id)).fetchone()[0] > 0
    except sqlite3.Error:
        return False
