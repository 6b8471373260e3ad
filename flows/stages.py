"""The kinds of work in a study, and how Prefect does them: in this process, or with the training handed to workers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flows.config import StudyConfig
from tasks.jobs import LandscapeJob, MergeJob, SearchJob, Setting, TrainingJob
from tasks.project import Project

Handle = Any  # a result, or something that stands for one that is still to come


class Stages(Protocol):
    """The kinds of work in a study."""

    def obtain_base(self, checkpoint: str | None, seed: int) -> Handle:
        """The base; handle of a Finished."""
        ...

    def train(self, job: TrainingJob, start: Handle, earlier: Sequence[Handle] = ()) -> Handle:
        """A fine-tuned checkpoint; handle of a Finished.

        `earlier` has what came before `start`, from the base on, for learners that look back.
        """
        ...

    def search(self, job: SearchJob, base: Handle, experts: list[Handle]) -> Handle:
        """The coefficients of one entry; handle of a Found."""
        ...

    def merge(self, job: MergeJob, base: Handle, experts: list[Handle], found: list[Handle]) -> Handle:
        """One merge an entry, evaluated already if it is not kept; handle of a list of Finished.

        `found` has the coefficients of those entries that are searched for.
        """
        ...

    def only(self, merged: Handle) -> Handle:
        """The merge of a job with one entry; handle of a Finished."""
        ...

    def audit(
        self, job: MergeJob, base: Handle, experts: list[Handle], merged: Handle, found: list[Handle]
    ) -> Handle:
        """What each of the job's merges removed; handle of a list of Audited."""
        ...

    def look(
        self,
        job: LandscapeJob,
        base: Handle,
        experts: list[Handle],
        merged: list[tuple[Handle, int]],
    ) -> Handle:
        """What lies between the checkpoints; handle of a Surveyed.

        `merged` has lists of Finished, and a place in each.
        """
        ...

    def compare(
        self, job: MergeJob, base: Handle, experts: list[Handle], merged: Handle, found: list[Handle]
    ) -> Handle:
        """What each of the job's merges forgot; handle of a list of Forgot."""
        ...

    def evaluate(self, label: str, checkpoints: Handle) -> Handle:
        """Scores of each checkpoint, or of each merge that is not kept; handle of a list of Scores."""
        ...


def setting_of(
    project: Project, config: StudyConfig, hashes: dict[str, str], *, is_settled: bool = True
) -> Setting:
    """What all steps of a run share; only looked at, it need not be settled on what this machine has."""
    load = config.workload.settled(project.root) if is_settled else config.workload
    workload = load.model_dump(mode="json")
    return Setting(
        str(project.root), workload, config.tasks, hashes, config.resources.threads, config.plugins
    )


@dataclass
class PrefectStages:
    """Each step a Prefect task, submitted as soon as it is known; futures stand for results."""

    setting: Setting
    trainer: str | None = None  # deployment that trains, such as "fine-tune/gpu"; None: in this process

    def obtain_base(self, checkpoint: str | None, seed: int) -> Handle:
        """Pre-train or load the base."""
        from tasks.training import obtain_base

        return obtain_base.submit(self.setting, checkpoint, seed)

    def train(self, job: TrainingJob, start: Handle, earlier: Sequence[Handle] = ()) -> Handle:
        """Fine-tune here, or on a worker of the trainer's pool."""
        from tasks.dispatch import train_on_worker
        from tasks.training import train_expert

        if self.trainer is not None:
            return train_on_worker.submit(self.setting, job, start, self.trainer, list(earlier))
        return train_expert.submit(self.setting, job, start, list(earlier))

    def search(self, job: SearchJob, base: Handle, experts: list[Handle]) -> Handle:
        """Find coefficients on validation data."""
        from tasks.searching import search_coefficients

        return search_coefficients.submit(self.setting, job, base, experts)

    def merge(self, job: MergeJob, base: Handle, experts: list[Handle], found: list[Handle]) -> Handle:
        """Merge the experts so far by every method."""
        from tasks.merging import merge_experts

        return merge_experts.submit(self.setting, job, base, experts, found)

    def only(self, merged: Handle) -> Handle:
        """Its one merge, once it is made."""
        from tasks.merging import take_only

        return take_only.submit(merged)

    def audit(
        self, job: MergeJob, base: Handle, experts: list[Handle], merged: Handle, found: list[Handle]
    ) -> Handle:
        """Audit the job's merges, once they are made."""
        from tasks.auditing import audit_merges

        return audit_merges.submit(self.setting, job, base, experts, merged, found)

    def look(
        self,
        job: LandscapeJob,
        base: Handle,
        experts: list[Handle],
        merged: list[tuple[Handle, int]],
    ) -> Handle:
        """Look at what lies between the checkpoints."""
        from tasks.landscapes import survey_landscape

        return survey_landscape.submit(self.setting, job, base, experts, merged)

    def compare(
        self, job: MergeJob, base: Handle, experts: list[Handle], merged: Handle, found: list[Handle]
    ) -> Handle:
        """Compare the job's merges with their experts, once they are made."""
        from tasks.forgetting import compare_merges

        return compare_merges.submit(self.setting, job, base, experts, merged, found)

    def evaluate(self, label: str, checkpoints: Handle) -> Handle:
        """Evaluate on every task."""
        from tasks.evaluation import evaluate_checkpoints

        return evaluate_checkpoints.submit(self.setting, label, checkpoints)
