"""What MLflow is to be told, as files: written first, delivered when the server answers.

A payload describes one MLflow run whole, so delivering it twice changes nothing. A server that is down costs no
record: the payload waits in the run's folder for `mergeline sync`.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

IDS = "ids.json"


@dataclass(frozen=True)
class MetricPoint:
    """One value of a metric at one step."""

    key: str
    value: float
    step: int = 0
    model: str | None = None  # digest of the checkpoint that it was measured on


@dataclass(frozen=True)
class ModelPayload:
    """A checkpoint, recorded by reference."""

    name: str
    uri: str | None  # None: a merge that was not kept
    digest: str
    size_bytes: int
    step: int
    params: dict[str, str]
    ingredients: tuple[str, ...]  # digests of the checkpoints that it was made from
    origin: dict[str, str] = field(
        default_factory=dict
    )  # more tags: how it was made, and how it is made again


@dataclass(frozen=True)
class DatasetPayload:
    """A data snapshot, by its content hash."""

    name: str
    digest: str
    source: str


@dataclass(frozen=True)
class RunPayload:
    """One MLflow run: a study's run, or one of its children."""

    key: str  # unique: the run's id, or "<run id>/<child>"
    experiment: str
    name: str
    parent: str | None  # key of the parent
    tags: dict[str, str]
    params: dict[str, str]
    started_ms: int
    ended_ms: int | None  # None: still running
    metrics: tuple[MetricPoint, ...] = ()
    models: tuple[ModelPayload, ...] = ()
    datasets: tuple[DatasetPayload, ...] = ()
    artifacts: dict[str, str] = field(default_factory=dict)  # local path -> folder among the run's artifacts
    failed: bool = False
    experiment_tags: dict[str, str] = field(
        default_factory=dict
    )  # what the pages of the whole experiment show

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        fields["metrics"] = tuple(MetricPoint(**point) for point in fields["metrics"])
        fields["models"] = tuple(
            ModelPayload(**{**model, "ingredients": tuple(model["ingredients"])})
            for model in fields["models"]
        )
        fields["datasets"] = tuple(DatasetPayload(**dataset) for dataset in fields["datasets"])
        return cls(**fields)

    def to_json(self) -> str:
        """As JSON with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True)


class Outbox:
    """The payloads of one run that are still to be delivered, in order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, payload: RunPayload) -> Path:
        """Keep a payload behind those that wait; never touches one that may be on its way."""
        self.folder.mkdir(parents=True, exist_ok=True)
        numbers = [int(path.name.split("-")[0]) for path in self.folder.glob("[0-9]*.json")]
        return _write(self.folder / f"{max(numbers, default=0) + 1:05d}-payload.json", payload.to_json())

    def waiting(self) -> Iterator[tuple[Path, RunPayload]]:
        """Files and payloads, oldest first."""
        for path in sorted(self.folder.glob("[0-9]*.json")):
            yield path, RunPayload.from_json(path.read_text(encoding="utf-8"))

    def count(self) -> int:
        """How many wait."""
        return sum(1 for _ in self.folder.glob("[0-9]*.json"))

    def remember(self, uri: str, ids: Mapping[str, str]) -> None:
        """Keep the ids that the tracking store at that address gave."""
        _write(self.folder / IDS, json.dumps({"uri": uri, "ids": dict(ids)}))

    def remembered(self) -> tuple[str, dict[str, str]]:
        """The address of the tracking store that was told last, and the ids that it gave; empty if none was."""
        with suppress(OSError, ValueError, KeyError):
            kept = json.loads((self.folder / IDS).read_text(encoding="utf-8"))
            return kept["uri"], kept["ids"]
        return "", {}


def _write(path: Path, text: str) -> Path:
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return path
