"""The record of a run while it goes on: rows as they are finished, MLflow told of each, the results at the end."""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from merge_lib.maps import Landscape
from merge_lib.report import build_report
from merge_lib.results import Row, StudyResults
from tasks import reporting
from tasks.delivery import Courier
from tasks.forgetting import most_forgotten
from tasks.jobs import Audited, Finished, Forgot, Scores, Setting, Surveyed
from tasks.payloads import RunPayload
from tasks.progress import StoppedError
from tasks.project import Project
from tasks.recording import RunRecorder
from tasks.runs import Run, environment, list_runs, load_run, save_run
from tasks.tracking import has_record
from tasks.training import open_workload

RESULTS = "results.json"


class Journal:
    """Keeps the rows of one run and passes them on.

    As long as everything was found among the finished work, the children wait: a run that turns out to equal an
    earlier one is recorded as its parent alone, which names the earlier run.
    """

    def __init__(self, project: Project, run: Run, setting: Setting) -> None:
        self.project, self.run, self.setting = project, run, setting
        self.started = time.monotonic()
        self.rows: list[Row] = []
        self.landscapes: list[Landscape] = []
        self.missing: dict[str, str] = {}
        self.metrics = reporting.Metrics()
        self.recorder = RunRecorder(run, setting, _milliseconds(run.started_at))
        self.courier = Courier(project, run.run_id)
        self.children: list[RunPayload] = []
        self.is_unchanged = True
        self.timings: dict[str, float] = dict.fromkeys(("record in MLflow", "report"), 0.0)
        self._record(self.recorder.parent())

    def add(
        self,
        fields: dict[str, Any],
        checkpoints: Sequence[Finished],
        scores: Sequence[Scores],
        audit: Audited | None = None,
        forgot: Forgot | None = None,
    ) -> None:
        """One row is finished: work out its metrics and tell MLflow."""
        stages = len(self.setting.tasks)
        row = self.metrics.fill(reporting.make_row(self.project, fields, checkpoints, scores, stages))
        row = replace(row, audit=audit and audit.summary, forgetting=forgot and forgot.summary)
        self.rows.append(row)
        now_ms = reporting.now_ms()
        self.children.append(self.recorder.row(row, checkpoints, now_ms, audit, forgot))
        if row.kind != "merge" and row.method != "base":
            trained = enumerate(checkpoints)
            self.children.extend(self.recorder.expert(row, stage, done, now_ms) for stage, done in trained)
        searches = {ref.search.record: ref.search for ref in row.checkpoints if ref.search is not None}
        told = [self.recorder.search(row, search, now_ms) for search in searches.values()]
        self.children.extend(payload for payload in told if payload is not None)
        for name, item in _steps(checkpoints, scores, audit, forgot):
            if not item.reused:
                self.is_unchanged = False
                self.timings[name] = self.timings.get(name, 0.0) + item.elapsed_s
        if not self.is_unchanged:
            self._send_children()

    def look(self, surveyed: Surveyed) -> None:
        """What lies between the checkpoints of a regime is known: keep it and tell MLflow."""
        self.landscapes.append(surveyed.landscape)
        self.children.append(self.recorder.landscape(surveyed, reporting.now_ms()))
        if not surveyed.reused:
            self.is_unchanged = False
            self.timings["landscape"] = self.timings.get("landscape", 0.0) + surveyed.elapsed_s
        if not self.is_unchanged:
            self._send_children()

    def miss(self, row: str, why: str) -> None:
        """A row cannot be finished in this run."""
        self.missing[row] = why

    def finish(self) -> StudyResults:
        """All rows are there: write the results, the report and the end of the record."""
        earlier = self._earlier_run() if self.is_unchanged else None
        results = self._results()
        if earlier is None:
            self.children.extend(self.recorder.comparison(results, reporting.now_ms()))
            self._send_children()
        reporting.save_for_dvc(self.project, results)
        artifacts = self._write(results)
        ended = self.recorder.finished(results, artifacts, reporting.now_ms(), unchanged_since=earlier)
        self._record(ended)
        self._close()
        save_run(
            self.project,
            self.run,
            status="finished",
            data=self.setting.data,
            unchanged_since=earlier,
            elapsed_s=results.elapsed_s,
            results_digest=_digest(self.rows, self.landscapes),
            timings=self.timings,
            missing={},
        )
        return results

    def finish_in_part(self) -> None:
        """Rows are missing: write results and report of those that are there; the run counts as failed."""
        if self.rows:
            self._write(self._results())

    def fail(self, status: str) -> None:
        """The run ended early; what is finished is recorded."""
        self._send_children()
        save_run(self.project, self.run, status=status, data=self.setting.data, missing=self.missing)
        self._record(self.recorder.failed(reporting.now_ms()))
        self._close()

    def _write(self, results: StudyResults) -> dict[Path, str]:
        """Results and report; the files, each with its folder among the record's artifacts."""
        folder = self.project.runs / self.run.run_id
        results.save(folder / RESULTS)
        with self._timed("report"):
            files = build_report(results, folder / "report")
        artifacts = {files.html: "", files.markdown: "", folder / RESULTS: ""}
        return artifacts | dict.fromkeys(files.figures, "figures")

    def _record(self, payload: RunPayload) -> None:
        with self._timed("record in MLflow"):
            self.courier.record(payload)

    def _close(self) -> None:
        with self._timed("record in MLflow"):
            self.courier.close()

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.timings[part] += time.monotonic() - started

    def _send_children(self) -> None:
        for child in self.children:
            self._record(child)
        self.children = []

    def _results(self) -> StudyResults:
        import torch

        config = self.run.config
        return StudyResults(
            study=self.run.study,
            run_id=self.run.run_id,
            description=" ".join([config["description"], *self._incompleteness()]).strip(),
            workload=config["workload"]["name"],
            scenario=config["workload"].get("scenario", ""),
            tasks=list(self.setting.tasks),
            seeds=list(config["seeds"]),
            chance=list(open_workload(self.setting).chance),
            data=self.setting.data,
            config=config,
            environment={**environment(torch.get_num_threads()), "git_revision": self.run.git_revision},
            started_at=self.run.started_at,
            elapsed_s=time.monotonic() - self.started,
            rows=self.rows,
            landscapes=self.landscapes,
            forgotten=most_forgotten(self.setting.store, self.rows),
        )

    def _incompleteness(self) -> list[str]:
        """What a reader must know before the table, if rows are missing from it."""
        if not self.missing:
            return []
        reasons = " ".join(dict.fromkeys(self.missing.values()))
        return [f"INCOMPLETE: {len(self.missing)} rows are missing: {'; '.join(self.missing)}. {reasons}"]

    def _earlier_run(self) -> str | None:
        """The first finished run of this study with the same rows whose record was delivered to the same place."""
        digest = _digest(self.rows, self.landscapes)
        for name in list_runs(self.project):
            other = load_run(self.project, name)
            is_same = other.status == "finished" and other.results_digest == digest
            is_whole = name != self.run.run_id and other.unchanged_since is None
            if is_same and is_whole and has_record(self.project, name):
                return name
        return None


def _steps(
    checkpoints: Sequence[Finished], scores: Sequence[Scores], audit: Audited | None, forgot: Forgot | None
) -> Iterator[tuple[str, Finished | Scores | Audited | Forgot]]:
    """The steps that a row comes from, each with its kind."""
    yield from ((done.kind, done) for done in checkpoints)
    yield from (("evaluate", done) for done in scores)
    yield from () if audit is None else (("audit", audit),)
    yield from () if forgot is None else (("forgetting", forgot),)


@contextmanager
def journal_of(project: Project, run: Run, setting: Setting) -> Iterator[Journal]:
    """A journal whose run is marked as failed or stopped if the work inside ends by an exception."""
    journal = Journal(project, run, setting)
    try:
        yield journal
    except (KeyboardInterrupt, StoppedError):
        journal.fail("stopped")
        raise
    except Exception:
        journal.fail("failed")
        raise


def _digest(rows: Sequence[Row], landscapes: Sequence[Landscape]) -> str:
    """What the rows say, and which maps were drawn, without how long it took."""
    said: list[Any] = [
        [row.label, row.regime, row.seed, row.accuracy, row.probes, [ref.digest for ref in row.checkpoints]]
        for row in rows
    ]
    said += [[one.regime, one.seed, one.records] for one in landscapes]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]


def _milliseconds(moment: str) -> int:
    return round(datetime.fromisoformat(moment).astimezone(UTC).timestamp() * 1000)


def results_of(project: Project, run_id: str) -> StudyResults:
    """The results of a finished run."""
    return StudyResults.load(Path(project.runs / run_id / RESULTS))
