"""The order of a study, said once: the flow, the plan and the dry run all walk it.

What each step does is the business of a `Stages`; here stands only what follows from what.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from flows.config import StudyConfig
from flows.learner_entries import LearnerEntry
from flows.method_entries import MethodEntry
from flows.stages import Handle, Stages
from merge_lib.results import Regime, RowFacts
from merge_lib.search import Search
from tasks.facts import facts_of, facts_of_learner
from tasks.jobs import LandscapeJob, MergeEntry, MergeJob, SearchJob, TrainingJob


@dataclass(frozen=True)
class Cells:
    """The handles from which one row of the results is read: `pick` chooses from what a stage's handles give."""

    label: str
    kind: str
    method: str
    regime: Regime | None
    seed: int | None
    params: dict[str, Any]
    checkpoints: list[Handle]  # a stage each
    scores: list[Handle]
    pick: int | None  # position in a merge's list; None where the checkpoint handle is not a list
    facts: RowFacts | None = None  # of merges and learners
    audits: Handle | None = None  # of the last stage, a merge each
    forgot: Handle | None = None  # likewise
    routing: dict[str, Any] | None = None  # of merges whose inputs find the tasks' models


@dataclass(frozen=True)
class Sight:
    """The handle of what lies between the checkpoints of one regime with one seed."""

    landscape: Handle


def walk(study: StudyConfig, stages: Stages) -> Iterator[Cells | Sight]:
    """Set everything going, in order, and name the rows as soon as their handles exist."""
    if not study.base.per_seed:
        base, cells = _obtain_base(study, stages, None)
        yield cells
    for seed in study.seeds:
        if study.base.per_seed:
            base, cells = _obtain_base(study, stages, seed)
            yield cells
        experts = {
            regime: _train_experts(study, stages, base, regime, seed)
            for regime in study.regimes
            if regime != "merged"
        }
        for regime, trained in experts.items():
            yield _reference(
                "expert" if regime == "parallel" else "sequential", regime, seed, trained, stages
            )
        if "joint" in study.references:
            joint = _train_jointly(study, stages, base, seed)
            yield _reference("joint", None, seed, joint, stages)
        for entry in study.learners:
            yield _learn_along(study, stages, base, entry, seed)
        entries = tuple(entry_of(entry) for entry in study.methods)
        for regime, trained in experts.items():
            rows = list(_merge_along(study, stages, base, trained, entries, regime, seed))
            yield from rows
            yield from _look(study, stages, (base, trained), rows, regime, seed)
        if "merged" in study.regimes:
            rows = list(_merge_and_train(study, stages, base, entries, seed))
            yield from rows
            yield from _look(study, stages, (base, rows[0].checkpoints), rows[1:], "merged", seed)


def _obtain_base(study: StudyConfig, stages: Stages, seed: int | None) -> tuple[Handle, Cells]:
    """The base of one seed, or of all, and its row."""
    checkpoint = str(study.base.checkpoint) if study.base.checkpoint else None
    base = stages.obtain_base(checkpoint, study.base.seed + (seed or 0))
    scores = stages.evaluate("base" if seed is None else f"base · seed {seed}", [base])
    return base, Cells("base", "reference", "base", None, seed, {}, [base], [scores], None)


def entry_of(entry: MethodEntry) -> MergeEntry:
    """What travels of an entry of the study."""
    scales = entry.layer_scales and entry.layer_scales.model_dump(mode="json")
    asked = entry.calibration.model_dump(mode="json", exclude_none=True) if entry.calibration else {}
    search = entry.search and entry.search.model_dump(mode="json", exclude_none=True)
    routing = entry.routing and entry.routing.model_dump(mode="json")
    return MergeEntry(entry.label, entry.method, entry.params, scales, asked, entry.equalise, search, routing)


def _train_experts(
    study: StudyConfig, stages: Stages, base: Handle, regime: Regime, seed: int
) -> list[Handle]:
    """Experts in the order of the sequence: each from the one before, or each from the base."""
    experts: list[Handle] = []
    for stage, task in enumerate(study.tasks):
        start = experts[-1] if experts and regime == "sequential" else base
        label = f"{regime} {stage + 1}/{len(study.tasks)} · seed {seed}"
        experts.append(stages.train(TrainingJob((task,), seed, label), start))
    return experts


def _train_jointly(study: StudyConfig, stages: Stages, base: Handle, seed: int) -> list[Handle]:
    """From the base, on all tasks seen so far together: what merging would like to reach."""
    return [
        stages.train(
            TrainingJob(
                study.tasks[: stage + 1], seed, f"joint {stage + 1}/{len(study.tasks)} · seed {seed}"
            ),
            base,
        )
        for stage in range(len(study.tasks))
    ]


def _learn_along(study: StudyConfig, stages: Stages, base: Handle, entry: LearnerEntry, seed: int) -> Cells:
    """One model, taught task after task by a learner."""
    course: list[Handle] = [base]
    scores = []
    for stage, task in enumerate(study.tasks):
        label = f"{entry.label} {stage + 1}/{len(study.tasks)} · seed {seed}"
        job = teaching_job(entry, task, study.tasks[:stage], seed, label)
        earlier = tuple(course[:-1]) if job.learner and entry.settings.looks_back else ()
        course.append(stages.train(job, course[-1], earlier))
        scores.append(stages.evaluate(label, [course[-1]]))
    facts = facts_of_learner(entry.settings)
    return Cells(
        entry.label, "learner", entry.learner, None, seed, entry.params, course[1:], scores, None, facts
    )


def teaching_job(
    entry: LearnerEntry, task: str, before: tuple[str, ...], seed: int, label: str
) -> TrainingJob:
    """The training of one task; one that is as any expert's is that of an expert, so that it is done once."""
    if entry.settings.is_ordinary(len(before)):
        return TrainingJob((task,), seed, label)
    return TrainingJob((task,), seed, label, entry.learner, entry.params, before)


def _reference(name: str, regime: Regime | None, seed: int, trained: list[Handle], stages: Stages) -> Cells:
    scores = [
        stages.evaluate(f"{name} {stage + 1}/{len(trained)} · seed {seed}", [checkpoint])
        for stage, checkpoint in enumerate(trained)
    ]
    return Cells(name, "reference", name, regime, seed, {}, trained, scores, None)


def _merge_along(
    study: StudyConfig,
    stages: Stages,
    base: Handle,
    experts: list[Handle],
    entries: tuple[MergeEntry, ...],
    regime: Regime,
    seed: int,
) -> Iterator[Cells]:
    """Every method after every task of the sequence, on the experts seen so far."""
    searches = Searches(stages, base, experts, len(study.tasks), regime, seed)
    for group in _together(entries):
        merged, scores, found = [], [], []
        for stage in range(len(study.tasks)):
            label = f"{regime} {stage + 1}/{len(study.tasks)} · seed {seed}"
            job = MergeJob(group, regime, stage, seed, label, study.keep_merged)
            found = searches.found(group, stage)
            merged.append(stages.merge(job, base, experts[: stage + 1], found))
            scores.append(stages.evaluate(label, merged[-1]))
        audits = stages.audit(job, base, experts, merged[-1], found) if study.audit else None
        forgot = stages.compare(job, base, experts, merged[-1], found) if study.forgetting else None
        for position, entry in enumerate(group):
            yield _row_of(entry, regime, seed, merged, scores, position, audits, forgot)


def _look(
    study: StudyConfig,
    stages: Stages,
    unmerged: tuple[Handle, list[Handle]],
    rows: Sequence[Cells],
    regime: Regime,
    seed: int,
) -> Iterator[Sight]:
    """What the study wants to see between base, experts and merges of a regime; `rows` are those of the merges."""
    asked, size = study.landscape, len(study.tasks)
    has_surface = asked.surface and size > 1 and seed == study.seeds[0]
    entries = {entry.label: entry_of(entry) for entry in study.methods} if has_surface else {}
    job = LandscapeJob(
        regime,
        seed,
        f"{regime} · seed {seed}",
        conflicts=asked.conflicts and size > 1,
        points=asked.paths,
        size=asked.surface if has_surface else 0,
        examples=asked.examples,
        entries=tuple(entries[row.label] for row in rows if has_surface),
    )
    merged = [(row.checkpoints[1], row.pick or 0) for row in rows if has_surface]  # of the first two experts
    if job.conflicts or job.points or job.size:
        yield Sight(stages.look(job, *unmerged, merged))


def _together(entries: Sequence[MergeEntry]) -> list[tuple[MergeEntry, ...]]:
    """Those that need no search in one job; each other by itself, since it waits for its own."""
    plain = tuple(entry for entry in entries if entry.search is None)
    return [*([plain] if plain else []), *((entry,) for entry in entries if entry.search is not None)]


def _row_of(
    entry: MergeEntry,
    regime: Regime,
    seed: int,
    merged: list[Handle],
    scores: list[Handle],
    position: int,
    audits: Handle | None,
    forgot: Handle | None,
) -> Cells:
    named = (entry.label, "merge", entry.method, regime, seed, entry.params)
    return Cells(*named, merged, scores, position, facts_of(entry), audits, forgot, entry.routing)


@dataclass
class Searches:
    """The searches along one sequence, each begun when it is first needed; `experts` may grow meanwhile."""

    stages: Stages
    base: Handle
    experts: list[Handle]
    size: int  # how many there are in the end
    regime: Regime
    seed: int
    begun: dict[tuple[str, int], Handle] = field(default_factory=dict)

    def found(self, entries: Sequence[MergeEntry], stage: int) -> list[Handle]:
        """The coefficients that the entries with a search use after a stage."""
        return [self._find(entry, stage) for entry in entries if entry.search is not None]

    def _find(self, entry: MergeEntry, stage: int) -> Handle:
        count = Search.model_validate(entry.search).experts_at(stage, self.size)
        if (entry.label, count) not in self.begun:
            job = SearchJob(entry, self.seed, f"{self.regime} {count}/{self.size} · seed {self.seed}")
            self.begun[entry.label, count] = self.stages.search(job, self.base, self.experts[:count])
        return self.begun[entry.label, count]


def _merge_and_train(
    study: StudyConfig, stages: Stages, base: Handle, entries: tuple[MergeEntry, ...], seed: int
) -> Iterator[Cells]:
    """Each expert from what `merged_from` made of those before it; then every other method on these experts."""
    leader = next(entry for entry in entries if entry.label == study.merged_from)
    others = tuple(entry for entry in entries if entry.label != study.merged_from)
    experts: list[Handle] = []
    merged, scores = [], []
    searches = Searches(stages, base, experts, len(study.tasks), "merged", seed)
    start = base
    for stage, task in enumerate(study.tasks):
        label = f"merged {stage + 1}/{len(study.tasks)} · seed {seed}"
        experts.append(stages.train(TrainingJob((task,), seed, label), start))
        is_kept = study.keep_merged or stage + 1 < len(study.tasks)  # the next expert starts from its file
        job = MergeJob((leader,), "merged", stage, seed, label, is_kept)
        found = searches.found((leader,), stage)
        merged.append(stages.merge(job, base, list(experts), found))
        scores.append(stages.evaluate(label, merged[-1]))
        start = stages.only(merged[-1])
    yield _reference("latest", "merged", seed, experts, stages)
    audits = stages.audit(job, base, experts, merged[-1], found) if study.audit else None
    forgot = stages.compare(job, base, experts, merged[-1], found) if study.forgetting else None
    yield _row_of(leader, "merged", seed, merged, scores, 0, audits, forgot)
    if others:
        yield from _merge_along(study, stages, base, experts, others, "merged", seed)
