"""One training of a workload in plain values, so that other processes can be handed it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from merge_lib.plugins import load_plugins
from merge_lib.workloads.protocol import Progress, TrainReport, Workload
from merge_lib.workloads.settings import parse
from merge_lib.workloads.training.curves import Curves


@dataclass(frozen=True)
class Assignment:
    """What is to be trained, on what, and where the result goes.

    Attributes:
        root: the project's folder, to which plugins are relative.
        plugins: Python files of the user's own.
        settings: the study's `workload:` block, validated.
        tasks: names, in sequence order.
        threads: of torch in each process.
        start: the checkpoint to begin with; None: pre-training.
        train_on: the tasks that are trained on; empty for pre-training.
        out: the checkpoint's file.
        seed: of all draws.
        lineage: JSON values for the file.
        partial: folder for saves on the way.
    """

    root: str
    plugins: tuple[str, ...]
    settings: dict[str, Any]
    tasks: tuple[str, ...]
    threads: int
    start: str | None
    train_on: tuple[str, ...]
    out: str
    seed: int
    lineage: dict[str, Any]
    partial: str | None

    def carry_out(self, workload: Workload, progress: Progress | None) -> TrainReport:
        """Train in this process."""
        partial = None if self.partial is None else Path(self.partial)
        how = {"seed": self.seed, "lineage": self.lineage, "progress": progress, "partial": partial}
        if self.start is None:
            return workload.pretrain(Path(self.out), **how)
        return workload.fine_tune(Path(self.start), self.train_on, Path(self.out), **how)

    def open_workload(self) -> Workload:
        """The workload, in a process that does not have it yet."""
        load_plugins(Path(self.root), self.plugins)
        settings = parse(self.settings)
        return settings.create(tasks=self.tasks, data=Path(self.root) / settings.data)

    def to_json(self) -> str:
        """For another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Assignment":
        """Undo `to_json`."""
        fields = json.loads(text)
        return cls(**{**fields, **{name: tuple(fields[name]) for name in ("plugins", "tasks", "train_on")}})


def report_to_json(report: TrainReport) -> str:
    """A report for another process."""
    return json.dumps({**asdict(report), "path": str(report.path)})


def report_from_json(text: str) -> TrainReport:
    """Undo `report_to_json`."""
    fields = json.loads(text)
    return TrainReport(**{**fields, "path": Path(fields["path"]), "curves": Curves(**fields["curves"])})
