"""Three ways to go through a study's steps: through Prefect, only looking, or handing the training to workers."""

from dataclasses import dataclass, field
from typing import Any

from flows.config import StudyConfig
from flows.walk import Handle
from tasks.jobs import Audited, Finished, Forgot, Found, MergeJob, Scores, SearchJob, Setting, TrainingJob
from tasks.project import Project


def setting_of(project: Project, config: StudyConfig, hashes: dict[str, str]) -> Setting:
    """What all steps of a run share."""
    workload = config.workload.model_dump(mode="json")
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

    def train(self, job: TrainingJob, start: Handle) -> Handle:
        """Fine-tune here, or on a worker of the trainer's pool."""
        from tasks.dispatch import train_on_worker
        from tasks.training import train_expert

        if self.trainer is not None:
            return train_on_worker.submit(self.setting, job, start, self.trainer)
        return train_expert.submit(self.setting, job, start)

    def search(self, job: SearchJob, base: Handle, experts: list[Handle], trials: int) -> Handle:  # noqa: ARG002
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


@dataclass(frozen=True)
class PlannedStep:
    """One step as the plan sees it."""

    kind: str  # pretrain, train, trial, merge, evaluate, audit, forgetting
    label: str
    is_cached: bool
    elapsed_s: float | None  # what it took when it was done, if it is cached
    is_stored: bool = True  # it leaves a checkpoint


@dataclass
class PlanningStages:
    """Looks each step up among the finished work; None stands for what is not there."""

    setting: Setting
    is_data_known: bool
    steps: list[PlannedStep] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def obtain_base(self, checkpoint: str | None, seed: int) -> Finished | None:
        """Look the base up."""
        from tasks.training import import_base, pretraining_key

        if checkpoint is not None:
            from pathlib import Path

            return import_base(self.setting, Path(checkpoint))
        key = pretraining_key(self.setting, seed)[0] if self.is_data_known else None
        return self._checkpoint("pretrain", key, "base")

    def train(self, job: TrainingJob, start: Finished | None) -> Finished | None:
        """Look an expert up."""
        from tasks.training import training_key

        known = start is not None and self.is_data_known
        key = training_key(self.setting, job, start.digest)[0] if known else None
        return self._checkpoint("train", key, job.label)

    def search(
        self, job: SearchJob, base: Finished | None, experts: list[Finished | None], trials: int
    ) -> Found | None:
        """Look the search up; its trials are what it costs."""
        from tasks.searching import recorded_search

        digests = [expert.digest for expert in experts if expert is not None]
        known = base is not None and len(digests) == len(experts) and self.is_data_known
        found = recorded_search(self.setting, job, base, digests) if known else None
        elapsed_s = found.told.elapsed_s / trials if found else None
        label = f"{job.entry.label} · {job.label}"
        step = PlannedStep("trial", label, found is not None, elapsed_s, is_stored=False)
        self.steps += [step] * trials
        return found

    def merge(
        self,
        job: MergeJob,
        base: Finished | None,
        experts: list[Finished | None],
        found: list[Found | None],
    ) -> list[Finished | None]:
        """Look every entry's merge up; one that was not kept is known, even if it is to be made again."""
        from tasks.merging import is_finished, is_stored, merging_key, recorded_merge

        digests = [expert.digest for expert in experts if expert is not None]
        is_whole = base is not None and len(digests) == len(experts)
        results = []
        for entry in job.settled(one for one in found if one is not None).entries:
            known = is_whole and entry.search is None  # else its coefficients are still to be found
            is_kept = is_stored(job, entry)
            key = merging_key(self.setting, entry, job.seed, base.digest, digests)[0] if known else None
            done = recorded_merge(self.setting, key) if key else None
            is_cached = is_finished(done, is_kept=is_kept)
            elapsed_s = done.elapsed_s if done else None
            label = f"{entry.label} · {job.label}"
            self.steps.append(PlannedStep("merge", label, is_cached, elapsed_s, is_kept))
            results.append(done)
        return results

    def only(self, merged: list[Finished | None]) -> Finished | None:
        """Its one merge, if it is known."""
        return merged[0]

    def audit(
        self,
        job: MergeJob,
        base: Finished | None,
        experts: list[Finished | None],
        merged: list[Finished | None],  # noqa: ARG002 -- an audit is known by what its merge is made from
        found: list[Found | None],
    ) -> list[Audited | None]:
        """Look every entry's audit up."""
        from tasks.auditing import auditing_key, recorded_audit

        digests = [expert.digest for expert in experts if expert is not None]
        is_whole = base is not None and len(digests) == len(experts)
        for entry in job.settled(one for one in found if one is not None).entries:
            known = is_whole and entry.search is None
            key = auditing_key(self.setting, entry, job.seed, base.digest, digests)[0] if known else None
            done = recorded_audit(self.setting, key) if key else None
            elapsed_s = done.elapsed_s if done else None
            label = f"{entry.label} · {job.label}"
            self.steps.append(PlannedStep("audit", label, done is not None, elapsed_s, is_stored=False))
        return [None] * len(job.entries)

    def compare(
        self,
        job: MergeJob,
        base: Finished | None,
        experts: list[Finished | None],
        merged: list[Finished | None],  # noqa: ARG002 -- it is known by what its merge is made from
        found: list[Found | None],
    ) -> list[Forgot | None]:
        """Look up what every entry's merge forgot."""
        from tasks.forgetting import forgetting_key, recorded_forgetting

        digests = [expert.digest for expert in experts if expert is not None]
        is_whole = base is not None and len(digests) == len(experts) and self.is_data_known
        for entry in job.settled(one for one in found if one is not None).entries:
            known = is_whole and entry.search is None
            key = forgetting_key(self.setting, entry, job.seed, base.digest, digests)[0] if known else None
            done = recorded_forgetting(self.setting, key) if key else None
            elapsed_s = done.elapsed_s if done else None
            label = f"{entry.label} · {job.label}"
            self.steps.append(PlannedStep("forgetting", label, done is not None, elapsed_s, is_stored=False))
        return [None] * len(job.entries)

    def evaluate(self, label: str, checkpoints: list[Finished | None]) -> list[Scores | None]:
        """Look the scores up."""
        from tasks.evaluation import evaluation_key

        for checkpoint in checkpoints:
            known = checkpoint is not None and self.is_data_known
            key = evaluation_key(self.setting, checkpoint.digest)[0] if known else None
            record = self.setting.store.find("evaluate", key) if key else None
            elapsed_s = record.values["elapsed_s"] if record else None
            self.steps.append(PlannedStep("evaluate", label, record is not None, elapsed_s, is_stored=False))
        return [None] * len(checkpoints)

    def _checkpoint(self, kind: str, key: str | None, label: str) -> Finished | None:
        record: Any = self.setting.store.find(kind, key) if key else None
        self.steps.append(
            PlannedStep(kind, label, record is not None, record.values["elapsed_s"] if record else None)
        )
        if record is None:
            return None
        self.sizes.append(record.values["size_bytes"])
        return Finished.from_record(record, self.setting.store.folder(kind, record.key), reused=True)
