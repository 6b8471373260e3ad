"""One training of a workload in plain values, so that other processes can be handed it."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from merge_lib.plugins import load_plugins
from merge_lib.workloads.protocol import Progress, TrainReport, Workload
from merge_lib.workloads.settings import parse
from merge_lib.workloads.training.curves import Curves

_TUPLES = ("plugins", "tasks", "train_on", "before", "earlier")


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
        learner: that trains; empty: it is trained as any expert is.
        params: of the learner.
        before: the tasks that `start` has learned already.
        earlier: checkpoints before `start`, from the base on, where the learner looks back.
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
    learner: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    before: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()

    def carry_out(self, workload: Workload, progress: Progress | None) -> TrainReport:
        """Train in this process."""
        partial = None if self.partial is None else Path(self.partial)
        if self.learner and self.start is not None:
            return self._teach(workload, partial, progress)
        how = {"seed": self.seed, "lineage": self.lineage, "progress": progress, "partial": partial}
        if self.start is None:
            return workload.pretrain(Path(self.out), **how)
        return workload.fine_tune(Path(self.start), self.train_on, Path(self.out), **how)

    def _teach(self, workload: Workload, partial: Path | None, progress: Progress | None) -> TrainReport:
        """Let the learner train."""
        from merge_lib.workloads import learners
        from merge_lib.workloads.learners.classroom import Course
        from merge_lib.workloads.learners.teaching import teach

        (task,) = self.train_on
        checkpoints = tuple(Path(place) for place in (*self.earlier, self.start or ""))
        course = Course(task, self.before, checkpoints, self.seed, partial, progress)
        settings = learners.get(self.learner).model_validate(self.params)
        return teach(workload, settings, course, Path(self.out), lineage=self.lineage)

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
        return cls(**{**fields, **{name: tuple(fields[name]) for name in _TUPLES}})


def report_to_json(report: TrainReport) -> str:
    """A report for another process."""
    return json.dumps({**asdict(report), "path": str(report.path)})


def report_from_json(text: str) -> TrainReport:
    """Undo `report_to_json`."""
    fields = json.loads(text)
    return TrainReport(**{**fields, "path": Path(fields["path"]), "curves": Curves(**fields["curves"])})
