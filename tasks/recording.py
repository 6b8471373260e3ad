"""What MLflow is told of a study: names, tags, parameters and metrics chosen for its comparison pages."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from merge_lib.results import Row, SearchRef, StudyResults
from tasks.comparison import comparison_runs, experiment_tags, summary_note
from tasks.jobs import Audited, Finished, Forgot, Setting, Surveyed
from tasks.metric_points import (
    audit_metrics,
    forgetting_metrics,
    landscape_metrics,
    routing_metrics,
    row_metrics,
    taught_metrics,
    training_curves,
)
from tasks.payloads import DatasetPayload, MetricPoint, ModelPayload, RunPayload
from tasks.records import RECORD, Record
from tasks.runs import Run, keeping


@dataclass(frozen=True)
class RunRecorder:
    """Builds the payloads of one run: the parent, a child for each row and for each trained checkpoint."""

    run: Run
    setting: Setting
    started_ms: int

    def parent(self) -> RunPayload:
        """The study's run as it starts."""
        return RunPayload(
            key=self.run.run_id,
            experiment=self.run.study,
            name=self.run.run_id,
            parent=None,
            tags={
                "mergeline.kind": "study",
                "mergeline.study": self.run.study,
                "mergeline.git_revision": self.run.git_revision,
                "mlflow.note.content": str(self.run.config.get("description", "")),
            },
            params=dict(sorted(_flat(self.run.config))),
            started_ms=self.started_ms,
            ended_ms=None,
            datasets=tuple(
                DatasetPayload(name, digest, f"dvc:{name}")
                for name, digest in sorted(self.setting.data.items())
            ),
        )

    def row(
        self,
        row: Row,
        checkpoints: Sequence[Finished],
        now_ms: int,
        audit: Audited | None = None,
        forgot: Forgot | None = None,
    ) -> RunPayload:
        """A method (or learner, or reference) in one regime with one seed: accuracies by stage and all its metrics."""
        regime, seed = row.regime or "any", "any" if row.seed is None else str(row.seed)
        name = f"{row.label} · {regime} · seed {seed}"
        params = {"method": row.method, "label": row.label, "regime": regime, "seed": seed}
        params |= {f"params.{key}": str(value) for key, value in row.params.items()}
        params |= dict(_flat({"routing": row.routing})) if row.routing else {}
        models = [self._model(row, stage, done, params) for stage, done in enumerate(checkpoints, 1)]
        return RunPayload(
            key=f"{self.run.run_id}/{row.label}/{regime}/{seed}",
            experiment=self.run.study,
            name=name,
            parent=self.run.run_id,
            tags=self._tags(row.kind, row.method, regime, seed),
            params=params,
            started_ms=now_ms - round(row.elapsed_s * 1000),
            ended_ms=now_ms,
            metrics=(
                *row_metrics(row, self.setting.tasks, models),
                *audit_metrics(row.audit),
                *forgetting_metrics(row.forgetting),
                *routing_metrics(row.routed),
            ),
            models=tuple(models),
            datasets=self._datasets(self.setting.tasks),
            artifacts=_artifacts(audit, forgot),
        )

    def search(self, row: Row, told: SearchRef, now_ms: int) -> RunPayload | None:
        """One search: what each trial reached on the validation split, and the coefficients that were found."""
        kind, _, key = told.record.partition("/")
        record = self.setting.store.find(kind, key)
        if record is None:
            return None
        regime, seed = row.regime or "any", str(row.seed)
        asked = record.params["search"]
        params = {"method": row.method, "label": row.label, "regime": regime, "seed": seed}
        params |= {"tasks": str(told.experts), "trials": str(told.trials)}
        params |= {f"search.{name}": str(asked[name]) for name in ("sampler", "seed", "objective", "when")}
        params |= {f"found.{name}": str(value) for name, value in told.values.items()}
        points, best = [], 0.0
        for step, trial in enumerate(record.values["trials"], 1):
            best = max(best, trial["objective"])
            points += [MetricPoint("validation", trial["objective"], step)]
            points += [MetricPoint("best_so_far", best, step)]
            numbers = {name: value for name, value in trial["setting"].items() if not isinstance(value, str)}
            points += [MetricPoint(f"trial/{name}", float(value), step) for name, value in numbers.items()]
        return RunPayload(
            key=f"{self.run.run_id}/search/{row.label}/{regime}/{seed}/{told.experts}",
            experiment=self.run.study,
            name=f"search {row.label} · {regime} · {told.experts} tasks · seed {seed}",
            parent=self.run.run_id,
            tags=self._tags("search", row.method, regime, seed),
            params=params,
            started_ms=now_ms - round(told.elapsed_s * 1000),
            ended_ms=now_ms,
            metrics=(*points, MetricPoint("elapsed_s", told.elapsed_s)),
            datasets=self._datasets(self.setting.tasks[: told.experts]),
        )

    def landscape(self, surveyed: Surveyed, now_ms: int) -> RunPayload:
        """What lies between the checkpoints of one regime with one seed: maps as files, their figures as metrics."""
        found = surveyed.landscape
        regime, seed = found.regime, str(found.seed)
        return RunPayload(
            key=f"{self.run.run_id}/landscape/{regime}/{seed}",
            experiment=self.run.study,
            name=f"landscape · {regime} · seed {seed}",
            parent=self.run.run_id,
            tags=self._tags("landscape", "landscape", regime, seed),
            params={"regime": regime, "seed": seed},
            started_ms=now_ms - round(surveyed.elapsed_s * 1000),
            ended_ms=now_ms,
            metrics=tuple(landscape_metrics(found)),
            datasets=self._datasets(self.setting.tasks) if found.path or found.surface else (),
            artifacts=dict.fromkeys(surveyed.files, "landscape"),
        )

    def expert(self, row: Row, stage: int, done: Finished, now_ms: int) -> RunPayload:
        """One trained checkpoint: its learning curve and its accuracy on every task."""
        is_taught = row.kind == "learner"
        verb, way = ("learn", row.label) if is_taught else ("train", row.regime or "joint")
        regime, seed, task = (
            row.regime or "any" if is_taught else way,
            str(row.seed),
            self.setting.tasks[stage],
        )
        method = row.method if is_taught else "fine-tuning"
        record = self._record(done)
        losses = record.values["losses"] if record else []
        points = [MetricPoint("training_loss", loss, epoch) for epoch, loss in enumerate(losses, 1)]
        points += [
            MetricPoint(f"accuracy/{name}", value, stage + 1, done.digest)
            for name, value in zip(self.setting.tasks, row.accuracy[stage], strict=True)
        ]
        points += [MetricPoint("elapsed_s", done.elapsed_s), MetricPoint("size_bytes", done.size_bytes)]
        points += taught_metrics(done, record)
        if record is not None:
            points.append(MetricPoint("validation_accuracy", record.values["validation_accuracy"]))
            points += training_curves(record.values.get("curves", {}))
        trained_on = list(record.params["train_on"]) if record else [task]
        params = {
            "method": method,
            "regime": regime,
            "seed": seed,
            "stage": str(stage + 1),
            "task": task,
        }
        params |= _course(record) if record else {}
        model = self._model(row, stage + 1, done, params)
        return RunPayload(
            key=f"{self.run.run_id}/{verb}/{way}/{seed}/{stage + 1}",
            experiment=self.run.study,
            name=f"{verb} {task} · {way} {stage + 1}/{len(self.setting.tasks)} · seed {seed}",
            parent=self.run.run_id,
            tags=self._tags("expert", method, regime, seed),
            params=params,
            started_ms=now_ms - round(done.elapsed_s * 1000),
            ended_ms=now_ms,
            metrics=tuple(points),
            models=(model,),
            datasets=self._datasets(trained_on),
        )

    def finished(
        self,
        results: StudyResults,
        artifacts: Mapping[Path, str],
        now_ms: int,
        *,
        unchanged_since: str | None,
    ) -> RunPayload:
        """The study's run as it ends: the summary, the report, the figures, the view of the experiment."""
        parent = self.parent()
        tags = {**parent.tags, "mergeline.data": json.dumps(results.data, sort_keys=True)}
        tags["mergeline.environment"] = json.dumps(results.environment, sort_keys=True)
        tags["mlflow.note.content"] = summary_note(results)
        if unchanged_since is not None:
            tags["mergeline.unchanged_since"] = unchanged_since
        return replace(
            parent,
            tags=tags,
            ended_ms=now_ms,
            metrics=(MetricPoint("elapsed_s", results.elapsed_s),),
            artifacts={str(path): place for path, place in artifacts.items()},
            experiment_tags={} if unchanged_since else experiment_tags(self.run, now_ms),
        )

    def comparison(self, results: StudyResults, now_ms: int) -> list[RunPayload]:
        """The means over the seeds, one run for each method and regime."""
        return comparison_runs(self.run, results, now_ms)

    def failed(self, now_ms: int) -> RunPayload:
        """The study's run, ended early."""
        return replace(self.parent(), ended_ms=now_ms, failed=True)

    def _model(self, row: Row, stage: int, done: Finished, params: dict[str, str]) -> ModelPayload:
        record = self._record(done)
        parts = (
            row.label,
            row.regime or "any",
            "any" if row.seed is None else f"seed{row.seed}",
            f"stage{stage}",
        )
        return ModelPayload(
            name="-".join(parts).replace(".", "_"),
            uri=None if done.path is None else Path(done.path).resolve().as_uri(),
            digest=done.digest,
            size_bytes=done.size_bytes,
            step=stage,
            params=params,
            ingredients=tuple(sorted(set(record.inputs.values()))) if record else (),
            origin=self._origin(done, record) if record and done.path is None else {},
        )

    def _origin(self, done: Finished, record: Record) -> dict[str, str]:
        """Of a merge that was not kept: its recipe, where its inputs are told, what makes it again."""
        place = self.setting.store.folder(done.kind, done.key) / RECORD
        return {
            "recipe": json.dumps(record.params, sort_keys=True),
            "record": place.resolve().as_uri(),
            "make_again": keeping(self.run.command),
        }

    def _record(self, done: Finished) -> Record | None:
        return self.setting.store.find(done.kind, done.key)

    def _tags(self, kind: str, method: str, regime: str, seed: str) -> dict[str, str]:
        return {
            "mergeline.kind": kind,
            "mergeline.study": self.run.study,
            "mergeline.run": self.run.run_id,
            "mergeline.method": method,
            "mergeline.regime": regime,
            "mergeline.seed": seed,
        }

    def _datasets(self, names: Sequence[str]) -> tuple[DatasetPayload, ...]:
        data = self.setting.data
        return tuple(DatasetPayload(name, data[name], f"dvc:{name}") for name in names if name in data)


def _course(record: Record) -> dict[str, str]:
    """What was out of the ordinary in a training."""
    told = {name: record.values.get(name) for name in ("micro_batch", "stopped_early", "resumed_at")}
    return {name: str(value) for name, value in told.items() if value}


def _artifacts(audit: Audited | None, forgot: Forgot | None) -> dict[str, str]:
    """The files of a row, each with its folder."""
    audits = {} if audit is None else {audit.path: "audit"}
    return audits | dict.fromkeys(forgot.paths if forgot else (), "forgetting")


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names; lists of settings by their label."""
    if isinstance(value, Mapping):
        inner = {key: item for key, item in value.items() if key not in ("description",)}
        return [
            pair for key, item in inner.items() for pair in _flat(item, f"{prefix}.{key}" if prefix else key)
        ]
    if (
        isinstance(value, list | tuple)
        and value
        and all(isinstance(item, Mapping) and "label" in item for item in value)
    ):
        named = {item["label"]: item for item in value}
        return [
            pair
            for key, item in named.items()
            for pair in _flat(item["params"] or "default", f"{prefix}.{key}")
        ]
    return [(prefix, json.dumps(value) if isinstance(value, list | tuple) else str(value))]
