"""What a study measured: the one structure that the report, the tracker and the command line read."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from merge_lib.maps import Landscape
from merge_lib.types import Data

Regime = Literal["sequential", "parallel", "merged"]


@dataclass(frozen=True)
class SearchRef:
    """The search on validation data that a merge's coefficients were found by."""

    values: dict[str, Any]  # the coefficients that were found, by name
    objective: float  # what they reached on the validation split, in [0, 1]
    trials: int
    experts: int  # with how many it was done
    elapsed_s: float  # of all trials
    record: str  # "search/<key>" in the project's store


@dataclass(frozen=True)
class RowFacts:
    """What a merge needs beside checkpoints, as it was when it was made; a learner, beside training data."""

    data: Data  # the most that merging, a search before it, or a learner is shown
    needs_task: bool  # there is a model for each task, and its user must know which to take
    is_tuned: bool  # coefficients were found on validation data
    looks_ahead: bool  # they were found with experts that had not arrived yet
    folds: bool  # it is a continual method: its state is enough to merge the next expert
    replays: bool = False  # it keeps training examples of earlier tasks
    chooses: bool = False  # there is a model for each task, and the input chooses among them


@dataclass(frozen=True)
class Taught:
    """What a learner was shown beside a task's own training data, and how it fused; see `merge_lib.recurrent`."""

    memory_examples: int  # of earlier tasks
    memory_bytes: int
    held_out: int  # development examples of each task seen so far, that a checkpoint was selected by
    fusions: int = 0
    cells: dict[str, float] = field(default_factory=dict)  # share of all entries, mean over the fusions
    norms: dict[str, float] = field(default_factory=dict)  # of changes: inner, outer, fused; likewise


@dataclass(frozen=True)
class CheckpointRef:
    """Where a checkpoint lies and what it is."""

    path: str | None  # relative to the project's root; None: a merge that was not kept
    digest: str
    size_bytes: int  # of the file; of the tensors alone where there is none
    state_bytes: int | None = None  # of what a continual method keeps, to go on from this merge
    record: str = ""  # "<kind>/<key>" of its making in the project's store; empty where it was not made there
    search: SearchRef | None = None
    learning: dict[str, float] = field(
        default_factory=dict
    )  # seconds of what it learned from data, by record
    taught: Taught | None = None  # where a learner made it

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """From plain JSON values."""
        search, taught = fields.get("search"), fields.get("taught")
        parts = {"search": None if search is None else SearchRef(**search)}
        return cls(**{**fields, **parts, "taught": None if taught is None else Taught(**taught)})


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
class ForgettingSummary:
    """What the last merge of a row forgot."""

    record: str  # "<kind>/<key>" of the tables in the project's store
    tasks: dict[
        str, dict[str, float]
    ]  # task -> accuracies, shares of examples, measures of merge_lib.forgetting
    blocks: dict[str, dict[str, dict[str, float]]]  # block -> task -> what of both parts is kept

    def of_tasks(self, measure: str) -> list[float]:
        """A measure of every task for which it is defined."""
        return [found[measure] for found in self.tasks.values() if measure in found]


@dataclass(frozen=True)
class RoutedStage:
    """How inputs found the tasks' models after one stage, and what must be kept for it."""

    chosen: dict[str, dict[str, float]]  # task -> task seen -> share of its inputs that are nearest to that
    kept: dict[str, int]  # part of what is kept beside the base -> bytes

    @property
    def right(self) -> dict[str, float]:
        """Of each task seen the share of its inputs that are nearest to its own prototypes."""
        return {task: shares[task] for task, shares in self.chosen.items() if task in shares}


@dataclass(frozen=True)
class ForgottenExample:
    """An example that merges answer wrongly, though the expert of its task was right."""

    task: str
    example: int  # where it lies in its split
    truth: str
    answer: str  # of the merges, the most frequent one
    merges: int  # how many forgot it
    of: int
    picture: str  # PNG in base64; empty where there is none
    text: str  # likewise


@dataclass(frozen=True)
class Row:
    """One method (or one learner, or reference) in one regime with one seed."""

    label: str  # the study's name for the row, unique together with regime and seed
    kind: Literal["merge", "learner", "reference"]
    method: str  # registered method or learner; for references: base, expert, sequential, latest, joint
    regime: Regime | None  # how the experts were trained; None where that has no meaning
    seed: int | None  # None for the base, which is shared by all seeds
    params: dict[str, Any]
    accuracy: list[list[float]]  # [T, T]: row t = after stage t, column k = on task k, each in [0, 1]
    elapsed_s: float  # training for references and learners, merging for merges, summed over the stages
    checkpoints: list[CheckpointRef]  # one for each stage
    metrics: dict[str, float | None] = field(default_factory=dict)  # merge_lib.metrics.summarise
    audit: AuditSummary | None = None  # of the last merge, where the study asks for it
    facts: RowFacts | None = (
        None  # of merges and learners; None in results that were written before facts were
    )
    forgetting: ForgettingSummary | None = None  # of the last merge, where the study asks for it
    probes: list[dict[str, float]] = field(
        default_factory=list
    )  # for each stage, what else was measured, by name
    routing: dict[str, Any] | None = None  # how inputs find the tasks' models, where the study says it
    routed: list[RoutedStage] = field(default_factory=list)  # for each stage, likewise

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """From plain JSON values."""
        facts, audit = fields.get("facts"), fields.get("audit")
        checkpoints = [CheckpointRef.from_dict(ref) for ref in fields["checkpoints"]]
        known = None if facts is None else RowFacts(**facts)
        summary = None if audit is None else AuditSummary(**audit)
        told = fields.get("forgetting")
        forgotten = None if told is None else ForgettingSummary(**told)
        routed = [RoutedStage(**stage) for stage in fields.get("routed", ())]
        return cls(
            **{
                **fields,
                "checkpoints": checkpoints,
                "facts": known,
                "audit": summary,
                "forgetting": forgotten,
                "routed": routed,
            }
        )


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
    landscapes: list[Landscape] = field(default_factory=list)  # by seed and regime
    forgotten: list[ForgottenExample] = field(default_factory=list)  # most often, by its merges

    def save(self, path: Path) -> None:
        """Write as JSON with sorted keys."""
        path.write_text(json.dumps(asdict(self), indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        fields = json.loads(path.read_text(encoding="utf-8"))
        rows = [Row.from_dict(row) for row in fields.pop("rows")]
        landscapes = [Landscape.from_dict(one) for one in fields.pop("landscapes", ())]
        forgotten = [ForgottenExample(**one) for one in fields.pop("forgotten", [])]
        return cls(rows=rows, landscapes=landscapes, forgotten=forgotten, **fields)
