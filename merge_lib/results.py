"""What a study measured: the one structure that the report, the tracker and the command line read."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

Regime = Literal["sequential", "parallel", "merged"]


@dataclass(frozen=True)
class CheckpointRef:
    """Where a checkpoint lies and what it is."""

    path: str | None  # relative to the project's root; None: a merge that was not kept
    digest: str
    size_bytes: int  # of the file; of the tensors alone where there is none
    state_bytes: int | None = None  # of what a continual method keeps, to go on from this merge
    record: str = ""  # "<kind>/<key>" of its making in the project's store; empty where it was not made there


@dataclass(frozen=True)
class AuditSummary:
    """What the last merge of a row kept of each expert's task vector."""

    record: str  # "<kind>/<key>" of the whole table in the project's store
    tasks: dict[str, dict[str, float]]  # task -> measure of merge_lib.diagnostics over the whole model
    blocks: dict[str, dict[str, float]]  # block -> task -> energy kept

    def of_tasks(self, measure: str) -> list[float]:
        """A measure of every task for which it is defined."""
        return [found[measure] for found in self.tasks.values() if measure in found]


@dataclass(frozen=True)
class Row:
    """One method (or one reference) in one regime with one seed."""

    label: str  # the study's name for the row, unique together with regime and seed
    kind: Literal["merge", "reference"]
    method: str  # registered method name; for references: base, expert, sequential, latest, joint
    regime: Regime | None  # how the experts were trained; None where that has no meaning
    seed: int | None  # None for the base, which is shared by all seeds
    params: dict[str, Any]
    accuracy: list[list[float]]  # [T, T]: row t = after stage t, column k = on task k, each in [0, 1]
    elapsed_s: float  # training for references, merging for merges, summed over the stages
    checkpoints: list[CheckpointRef]  # one for each stage
    metrics: dict[str, float | None] = field(default_factory=dict)  # merge_lib.metrics.summarise
    audit: AuditSummary | None = None  # of the last merge, where the study asks for it


@dataclass(frozen=True)
class StudyResults:
    """Everything that a run of a study measured, and what it was measured on."""

    study: str
    run_id: str
    description: str
    workload: str
    scenario: str
    tasks: list[str]  # names, in the order of the task sequence
    seeds: list[int]
    chance: list[float]  # accuracy of guessing, for each task
    data: dict[str, str]  # snapshot name -> content hash
    config: dict[str, Any]  # the study as it was validated
    environment: dict[str, str]  # python, torch, machine, threads, git revision
    started_at: str  # ISO 8601, UTC
    elapsed_s: float
    rows: list[Row]

    def save(self, path: Path) -> None:
        """Write as JSON with sorted keys."""
        path.write_text(json.dumps(asdict(self), indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        fields = json.loads(path.read_text(encoding="utf-8"))
        rows = [_read_row(row) for row in fields.pop("rows")]
        return cls(rows=rows, **fields)


def _read_row(fields: dict[str, Any]) -> Row:
    audit = fields.get("audit")
    return Row(
        **{
            **fields,
            "checkpoints": [CheckpointRef(**ref) for ref in fields["checkpoints"]],
            "audit": None if audit is None else AuditSummary(**audit),
        }
    )
