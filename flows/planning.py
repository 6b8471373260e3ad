"""Going through a study's steps and only looking: which are finished, which are to come."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from merge_lib.search import Search
from tasks.facts import is_folded, merged_as
from tasks.jobs import (
    Audited,
    Finished,
    Forgot,
    Found,
    LandscapeJob,
    MergeEntry,
    MergeJob,
    Scores,
    SearchJob,
    Setting,
    Surveyed,
    TrainingJob,
)


@dataclass(frozen=True)
class PlannedStep:
    """One step as the plan sees it."""

    kind: str  # one of flows.estimates.GUESSES_S
    label: str
    is_cached: bool
    files: int = 0  # of about a checkpoint's size that it is to write


@dataclass
class PlanningStages:
    """Looks each step up among the finished work; None stands for what is not there."""

    setting: Setting
    is_data_known: bool
    steps: list[PlannedStep] = field(default_factory=list)

    def obtain_base(self, checkpoint: str | None, seed: int) -> Finished | None:
        """Look the base up."""
        from tasks.training import import_base, pretraining_key

        if checkpoint is not None:
            from pathlib import Path

            return import_base(self.setting, Path(checkpoint))
        key = pretraining_key(self.setting, seed)[0] if self.is_data_known else None
        return self._checkpoint("pretrain", key, "base")

    def train(
        self, job: TrainingJob, start: Finished | None, earlier: Sequence[Finished | None] = ()
    ) -> Finished | None:
        """Look an expert up."""
        from tasks.training import training_key

        known = _all_known([*earlier, start]) if self.is_data_known else None
        key = training_key(self.setting, job, *[one.digest for one in reversed(known)])[0] if known else None
        return self._checkpoint("train", key, job.label)

    def search(self, job: SearchJob, base: Finished | None, experts: list[Finished | None]) -> Found | None:
        """Look the search up, and those of its trials that are finished; they are what it costs."""
        from tasks.searching import finished_trials, recorded_search

        found, done, trials = None, 0, Search.model_validate(job.entry.search).trials
        known = _all_known(experts)
        if base is not None and known is not None and self.is_data_known:
            found = recorded_search(self.setting, job, base, [expert.digest for expert in known])
            done = trials if found else finished_trials(self.setting, job, base, known)
        label = f"{job.entry.label} · {job.label}"
        self.steps += [PlannedStep("trial", label, place < done) for place in range(trials)]
        return found

    def merge(
        self,
        job: MergeJob,
        base: Finished | None,
        experts: list[Finished | None],
        found: list[Found | None],
    ) -> list[Finished | None]:
        """Look every entry's merge up; one that was not kept is known, even if it is to be made again."""
        from tasks.merge_keys import is_finished, is_stored, merging_key, recorded_merge

        results = []
        entries = job.settled(one for one in found if one is not None).entries
        for entry, first in zip(entries, merged_as(entries), strict=True):
            digests = _inputs_of(entry, base, experts)
            is_kept = is_stored(job, entry)
            told = merging_key(self.setting, entry, job.seed, *digests) if digests else None
            done = recorded_merge(self.setting, told[0]) if told else None
            if entry is first:
                is_cached = is_finished(done, is_kept=is_kept)
                files = is_kept + is_folded(entry)  # the merge, and the state that the next one starts from
                self.steps.append(PlannedStep("merge", f"{entry.label} · {job.label}", is_cached, files))
            results.append(done if entry.routing is None else self._route(entry, told, base, job.label))
        return results

    def _route(self, entry: MergeEntry, told: Any, base: Finished | None, label: str) -> Finished | None:
        """Look up how inputs found the models of a merge, which is `told` by key, inputs and parameters."""
        from tasks.routing import recorded_route, route_of

        known = told is not None and base is not None and self.is_data_known
        route = route_of(self.setting, entry, told, base.digest) if known else None  # type: ignore[union-attr]
        done = None if route is None else recorded_route(self.setting, route.key)
        self.steps.append(PlannedStep("route", f"{entry.label} · {label}", done is not None))
        return done

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

        for entry in _each_once(job, found):
            digests = _inputs_of(entry, base, experts)
            key = auditing_key(self.setting, entry, job.seed, *digests)[0] if digests else None
            is_cached = key is not None and recorded_audit(self.setting, key) is not None
            self.steps.append(PlannedStep("audit", f"{entry.label} · {job.label}", is_cached))
        return [None] * len(job.entries)

    def look(
        self,
        job: LandscapeJob,
        base: Finished | None,
        experts: list[Finished | None],
        merged: list[tuple[list[Finished | None], int]],
    ) -> Surveyed | None:
        """Look every map up."""
        from tasks.landscape_keys import maps_of

        done = [one for one in experts if one is not None]
        is_whole = base is not None and len(done) == len(experts) and self.is_data_known
        merges = [found[place] for found, place in merged]
        keys = maps_of(self.setting, job, base, done, merges) if is_whole else {}
        for kind in job.kinds:
            record = self.setting.store.find(kind, keys[kind]) if kind in keys else None
            self.steps.append(PlannedStep(kind, job.label, record is not None))
        return None

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

        for entry in _each_once(job, found):
            digests = _inputs_of(entry, base, experts) if self.is_data_known else None
            key = forgetting_key(self.setting, entry, job.seed, *digests)[0] if digests else None
            is_cached = key is not None and recorded_forgetting(self.setting, key) is not None
            self.steps.append(PlannedStep("forgetting", f"{entry.label} · {job.label}", is_cached))
        return [None] * len(job.entries)

    def evaluate(self, label: str, checkpoints: list[Finished | None]) -> list[Scores | None]:
        """Look the scores up."""
        from tasks.evaluation import find_scores

        for checkpoint in checkpoints:
            known = checkpoint is not None and self.is_data_known
            scored = known and (checkpoint.scores or find_scores(self.setting, checkpoint.digest))
            is_cached = bool(scored)
            self.steps.append(PlannedStep("evaluate", label, is_cached))
        return [None] * len(checkpoints)

    def _checkpoint(self, kind: str, key: str | None, label: str) -> Finished | None:
        record = self.setting.store.find(kind, key) if key else None
        self.steps.append(PlannedStep(kind, label, record is not None, files=1))
        if record is None:
            return None
        return Finished.from_record(record, self.setting.store.folder(kind, record.key), reused=True)


def _each_once(job: MergeJob, found: list[Found | None]) -> list[MergeEntry]:
    """The job's entries, but of those that are merged alike only the first."""
    entries = job.settled(one for one in found if one is not None).entries
    return [entry for entry, first in zip(entries, merged_as(entries), strict=True) if entry is first]


def _all_known(experts: list[Finished | None]) -> list[Finished] | None:
    """The experts, unless one of them is still to be trained."""
    known = [expert for expert in experts if expert is not None]
    return known if len(known) == len(experts) else None


def _inputs_of(
    entry: MergeEntry, base: Finished | None, experts: list[Finished | None]
) -> tuple[str, list[str]] | None:
    """Digests of the base and of the experts; None if one is not known, or the entry's coefficients are not."""
    known = _all_known(experts)
    if base is None or known is None or entry.search is not None:
        return None
    return base.digest, [expert.digest for expert in known]
