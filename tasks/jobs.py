"""What travels between Prefect tasks: paths, digests and parameters; never tensors."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from merge_lib.maps import Landscape
from merge_lib.results import AuditSummary, ForgettingSummary, Regime, RoutedStage, SearchRef
from tasks.records import Record, RecordStore


@dataclass(frozen=True)
class Setting:
    """What all jobs of a run share."""

    root: str  # the project's folder
    workload: dict[str, Any]  # validated WorkloadConfig
    tasks: tuple[str, ...]  # names, in sequence order
    data: dict[str, str]  # snapshot name -> content hash
    threads: int = 1  # of torch, in each step; part of what decides the last bits of a training
    plugins: tuple[str, ...] = ()  # Python files with methods or workloads of the user's own

    def hashes_of(self, snapshots: Iterable[str]) -> dict[str, str]:
        """Content hash of each snapshot."""
        return {name: self.data[name] for name in snapshots}

    @property
    def store(self) -> RecordStore:
        """Finished work of this project."""
        return RecordStore(Path(self.root) / ".mergeline" / "store")

    def partial(self, key: str) -> Path:
        """Where a training saves what a killed one goes on from."""
        return Path(self.root) / ".mergeline" / "partial" / key


@dataclass(frozen=True)
class TrainingJob:
    """Train a checkpoint on one task, or on several at once (joint training).

    Attributes:
        learner: by which it is trained; empty: as any expert is.
        params: of the learner.
        before: the tasks that the checkpoint it starts from has learned already, in their order; of learners.
    """

    train_on: tuple[str, ...]
    seed: int
    label: str  # "sequential 3/5 · seed 0"
    learner: str = ""
    params: dict[str, Any] = field(default_factory=dict, hash=False)
    before: tuple[str, ...] = ()


@dataclass(frozen=True)
class MergeEntry:
    """One method with its parameters, under the study's label."""

    label: str
    method: str
    params: dict[str, Any] = field(hash=False)
    layer_scales: dict[str, Any] | None = field(default=None, hash=False)
    calibration: dict[str, Any] = field(default_factory=dict, hash=False)  # what the study says of it
    equalise: Literal["norms"] | None = None
    search: dict[str, Any] | None = field(default=None, hash=False)  # what is still to be found, and how
    routing: dict[str, Any] | None = field(default=None, hash=False)  # how inputs find the tasks' models


@dataclass(frozen=True)
class SearchJob:
    """Find the coefficients of one entry on the validation split of the tasks of the experts given."""

    entry: MergeEntry
    seed: int
    label: str


@dataclass(frozen=True)
class Found:
    """What a search found, for the entry of that label."""

    label: str
    params: dict[str, Any]
    layer_scales: dict[str, Any] | None
    told: SearchRef
    reused: bool

    def settle(self, entry: MergeEntry) -> MergeEntry:
        """The entry with what was found for it."""
        params = {**entry.params, **self.params}
        return replace(entry, params=params, layer_scales=self.layer_scales, search=None)


@dataclass(frozen=True)
class MergeJob:
    """Merge the experts seen so far with every method.

    Attributes:
        is_kept: the merges are written, to be evaluated from there; else each is evaluated as it is made.
    """

    entries: tuple[MergeEntry, ...]
    regime: Regime
    stage: int  # from 0
    seed: int
    label: str
    is_kept: bool = True

    def settled(self, found: Iterable[Found]) -> "MergeJob":
        """The job with the coefficients that were found for some of its entries."""
        by_label = {one.label: one for one in found}
        entries = (by_label[e.label].settle(e) if e.label in by_label else e for e in self.entries)
        return replace(self, entries=tuple(entries))


@dataclass(frozen=True)
class Scores:
    """Accuracy of one checkpoint on every task of the sequence, in [0, 1]."""

    digest: str
    accuracy: tuple[float, ...]
    elapsed_s: float
    reused: bool
    probes: dict[str, float] = field(default_factory=dict)  # what else the workload measures, by name

    def by_name(self, tasks: Sequence[str]) -> dict[str, float]:
        """All values, those of the tasks of the sequence first."""
        return {**dict(zip(tasks, self.accuracy, strict=True)), **self.probes}


@dataclass(frozen=True)
class Audited:
    """What a merge removed."""

    key: str
    path: str  # of the whole table
    summary: AuditSummary
    elapsed_s: float
    reused: bool  # found, not made now


@dataclass(frozen=True)
class LandscapeJob:
    """Look at what lies between base, experts and merges of one regime with one seed.

    Attributes:
        conflicts: whether each pair of experts is compared, layer by layer.
        points: of each leg of the path from the base through all experts; 0: no path.
        size: points along each side of the surface over base and the first two experts; 0: no surface.
        examples: of each task, that losses are measured on.
        entries: whose merges are marked on the surface.
    """

    regime: Regime
    seed: int
    label: str
    conflicts: bool = False
    points: int = 0
    size: int = 0
    examples: int = 128
    entries: tuple[MergeEntry, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of finished work that it comes to."""
        asked = {"conflicts": self.conflicts, "path": self.points, "surface": self.size, "marks": self.size}
        return tuple(kind for kind, is_asked in asked.items() if is_asked)


@dataclass(frozen=True)
class Surveyed:
    """What was looked at."""

    landscape: Landscape
    files: tuple[str, ...]  # of the maps
    elapsed_s: float
    reused: bool  # all of it was found, not made now


@dataclass(frozen=True)
class Forgot:
    """What a merge forgot."""

    key: str
    paths: tuple[str, ...]  # of tables and drawings
    summary: ForgettingSummary
    elapsed_s: float
    reused: bool  # found, not made now


@dataclass(frozen=True)
class Finished:
    """A checkpoint that is whole, and how it came about."""

    kind: str
    key: str
    path: str | None  # None: a merge that was not kept
    digest: str
    size_bytes: int  # of the file; of the tensors alone where there is none
    elapsed_s: float
    reused: bool  # found, not made now
    scores: Scores | None = None  # of a merge that was not kept: evaluated as it was made
    state_bytes: int | None = None  # of what a continual method keeps, to go on from this merge
    search: SearchRef | None = None  # what its coefficients were found by
    learning: dict[str, float] = field(
        default_factory=dict
    )  # seconds of what it learned from data, by record
    taught: dict[str, Any] | None = None  # fields of `merge_lib.results.Taught`, where a learner made it
    routed: RoutedStage | None = None  # of a merge whose models answer by routing

    @classmethod
    def from_record(cls, record: Record, folder: Path, *, reused: bool) -> "Finished":
        """The checkpoint that a record of training or merging holds."""
        values: Mapping[str, Any] = record.values
        path = None if values["checkpoint"] is None else str(folder / values["checkpoint"])
        return cls(
            record.kind,
            record.key,
            path,
            values["digest"],
            values["size_bytes"],
            values["elapsed_s"],
            reused,
            state_bytes=values.get("state_bytes"),
            learning=values.get("learning", {}),
            taught=values.get("taught"),
        )
