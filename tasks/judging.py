"""Scores of an outside judge, recorded beside the run whose checkpoint was judged: in its folder and in MLflow."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from merge_lib.checkpoints import checkpoint_digest
from tasks.delivery import sole_courier
from tasks.payloads import MetricPoint, RunPayload
from tasks.project import Project
from tasks.reporting import now_ms
from tasks.runs import Run, load_run, outbox_of
from tasks.tracking import MlflowTracker, TrackingError

FOLDER = "judged"


class Judged(Protocol):
    """One score; a dataclass."""

    __dataclass_fields__: Any
    task: str
    metric: str
    variant: str
    value: float
    examples: int


@dataclass(frozen=True)
class Recorded:
    """Where scores were written, and why MLflow does not have them yet, if so."""

    run_id: str
    path: Path
    refused: str | None


def record_judgements(
    project: Project, run_id: str, checkpoint: Path, found: Sequence[Judged], *, started_s: float
) -> Recorded:
    """Write the scores into the run's folder and tell MLflow, as a child of the run.

    Args:
        project: with the run.
        run_id: its name; `latest` is the newest.
        checkpoint: what was judged.
        found: the scores.
        started_s: when judging began, seconds since 1970.

    Raises:
        SpecError: there is no such run.
    """
    run = load_run(project, run_id)
    digest = checkpoint_digest(checkpoint)
    path = project.runs / run.run_id / FOLDER / f"{digest.removeprefix('xxh3:')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    scores = {**_earlier(path), **{_key(one): asdict(one) for one in found}}
    told = {"checkpoint": str(checkpoint), "digest": digest, "scores": scores}
    path.write_text(json.dumps(told, indent=1, sort_keys=True), encoding="utf-8")
    outbox = outbox_of(project, run.run_id)
    outbox.put(_payload(run, checkpoint, digest, scores, round(started_s * 1000)))
    try:
        with sole_courier(outbox):
            MlflowTracker(project, outbox).deliver()
    except TrackingError as refused:
        return Recorded(run.run_id, path, str(refused))
    return Recorded(run.run_id, path, None)


def _earlier(path: Path) -> dict[str, Any]:
    """What the same checkpoint was judged by before."""
    return json.loads(path.read_text(encoding="utf-8"))["scores"] if path.exists() else {}


def _key(one: Judged) -> str:
    """What MLflow calls the metric: no commas."""
    return "/".join((FOLDER, one.task, one.metric, one.variant))


def _payload(run: Run, checkpoint: Path, digest: str, scores: dict[str, Any], started_ms: int) -> RunPayload:
    return RunPayload(
        key=f"{run.run_id}/{FOLDER}/{digest}",
        experiment=run.study,
        name=f"judged · {checkpoint.parent.name or checkpoint.name}",
        parent=run.run_id,
        tags={"mergeline.kind": FOLDER, "digest": digest, "uri": str(checkpoint)},
        params={},
        started_ms=started_ms,
        ended_ms=now_ms(),
        metrics=tuple(MetricPoint(key, score["value"]) for key, score in sorted(scores.items())),
    )
