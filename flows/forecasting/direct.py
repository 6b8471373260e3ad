"""A study's steps done one after another in this process: no server, no record in a tracker, the same finished work."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flows.config import StudyConfig
from flows.stages import setting_of
from tasks import versioning
from tasks.evaluation import evaluate_one
from tasks.jobs import Audited, Finished, Found, MergeJob, Scores, SearchJob, Setting, TrainingJob
from tasks.merging import merge_missing
from tasks.project import Project
from tasks.searching import find_coefficients
from tasks.training import fine_tune, import_base, pretrain


@dataclass
class DirectStages:
    """Each step is done when the walk comes to it, unless it is among the finished work."""

    setting: Setting

    def obtain_base(self, checkpoint: str | None, seed: int) -> Finished:
        """Pre-train or load the base."""
        if checkpoint is not None:
            return import_base(self.setting, Path(checkpoint))
        return pretrain(self.setting, seed)

    def train(self, job: TrainingJob, start: Finished, earlier: Sequence[Finished] = ()) -> Finished:
        """Fine-tune."""
        return fine_tune(self.setting, job, start, earlier)

    def search(self, job: SearchJob, base: Finished, experts: list[Finished]) -> Found:
        """Find coefficients on validation data."""
        return find_coefficients(self.setting, job, base, experts)

    def merge(
        self, job: MergeJob, base: Finished, experts: list[Finished], found: list[Found]
    ) -> list[Finished]:
        """Merge the experts so far by every method."""
        told = {one.label: one.told for one in found}
        made = merge_missing(self.setting, job.settled(found), base, experts)
        return [
            replace(done, search=told.get(entry.label)) for entry, done in zip(job.entries, made, strict=True)
        ]

    def only(self, merged: list[Finished]) -> Finished:
        """Its one merge."""
        return merged[0]

    def audit(
        self,
        job: MergeJob,  # noqa: ARG002
        base: Finished,  # noqa: ARG002
        experts: list[Finished],  # noqa: ARG002
        merged: list[Finished],  # noqa: ARG002
        found: list[Found],  # noqa: ARG002
    ) -> list[Audited] | None:
        """None: the features of a forecast say what an audit would."""
        return None

    def evaluate(self, label: str, checkpoints: list[Finished]) -> list[Scores]:
        """Evaluate on every task."""
        return [
            evaluate_one(self.setting, f"{label} · {place}", checkpoint)
            for place, checkpoint in enumerate(checkpoints, 1)
        ]


def open_setting(project: Project, config: StudyConfig) -> Setting:
    """What all steps of a study share, its data brought up to date.

    Raises:
        DataError: no stage makes a snapshot that the study needs.
    """
    needed = config.snapshots
    if not needed:
        return setting_of(project, config, {})
    hashes = versioning.version_of(project, needed).hashes
    return setting_of(project, config, {name: hashes[name] for name in needed})
