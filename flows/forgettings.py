"""What the merges of a run, or the merge of a recipe, forgot: found among the finished work, or worked out now."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from flows.config import restore_study
from flows.planning import PlanningStages
from flows.stages import setting_of
from flows.walk import walk
from merge_lib.diagnostics import read_table
from merge_lib.errors import SpecError, suggest
from merge_lib.forgetting import lost_by, often_forgotten
from merge_lib.forgetting.comparison import shares_of
from merge_lib.forgetting.summary import largest_losses, summarise
from merge_lib.report.forgetting import Merged, page
from merge_lib.report.layout import Report
from merge_lib.spec import MergeSpec
from tasks.forgetting import ANSWERS, DIRECTIONS, answers_in, answers_of_recipe, compare_one
from tasks.jobs import Finished, Forgot, Found, MergeEntry, MergeJob, Setting
from tasks.project import Project
from tasks.runs import Run


@dataclass(frozen=True)
class LastMerge:
    """A merge after the last task of a run; None stands for what is no longer among the finished work."""

    job: MergeJob
    entry: MergeEntry
    base: Finished | None
    experts: list[Finished | None]
    merged: Finished | None

    @property
    def name(self) -> str:
        """Label, regime and seed."""
        return f"{self.entry.label} ({self.job.regime}, seed {self.job.seed})"


@dataclass(frozen=True)
class Told:
    """One method in one regime, over its seeds.

    Attributes:
        answers: one table a seed; none where no workload was asked.
    """

    merged: Merged
    seeds: tuple[int, ...]
    directions: tuple[pa.Table, ...]
    answers: tuple[pa.Table, ...] = ()


@dataclass
class _LastMerges(PlanningStages):
    """Goes through a study's steps and remembers its last merges."""

    last: list[LastMerge] = field(default_factory=list)

    def compare(
        self,
        job: MergeJob,
        base: Finished | None,
        experts: list[Finished | None],
        merged: list[Finished | None],
        found: list[Found | None],
    ) -> list[Forgot | None]:
        """Remember them."""
        entries = job.settled(one for one in found if one is not None).entries
        for entry, done in zip(entries, merged, strict=True):
            self.last.append(LastMerge(job, entry, base, list(experts), done))
        return [None] * len(entries)


def last_merges(
    project: Project, run: Run, label: str | None, regime: str | None, seed: int | None
) -> tuple[Setting, list[LastMerge]]:
    """The run's merges after its last task, those that were asked for.

    Raises:
        SpecError: there are none such, or what they were made from is gone.
    """
    config = restore_study(project.root, {**run.config, "forgetting": True})
    stages = _LastMerges(setting_of(project, config, run.data or {}), is_data_known=True)
    for _ in walk(config, stages):
        pass
    known = [(one.entry.label, one.job.regime, str(one.job.seed)) for one in stages.last]
    asked = (label, regime, None if seed is None else str(seed))
    for what, place in (("label", 0), ("regime", 1), ("seed", 2)):
        names = sorted({names[place] for names in known})
        if asked[place] is not None and asked[place] not in names:
            raise SpecError(
                f"The run has no merge of {what} '{asked[place]}': {suggest(asked[place], names)}."
            )
    chosen = [
        one
        for one, names in zip(stages.last, known, strict=True)
        if all(want in (None, name) for want, name in zip(asked, names, strict=True))
    ]
    _check_whole(run, chosen)
    return stages.setting, chosen


def _check_whole(run: Run, merges: Sequence[LastMerge]) -> None:
    gone = [one.name for one in merges if None in (one.base, *one.experts) or one.entry.search is not None]
    if gone or not merges:
        what = (
            f"Experts, base or coefficients of {', '.join(gone)} are" if gone else "Merges of that kind are"
        )
        raise SpecError(
            f"{what} not among the finished work of run '{run.run_id}'. Run its study again ({run.command}): only "
            "what is missing is made."
        )


def told_of_run(setting: Setting, merges: Sequence[LastMerge], progress: Callable[[int], None]) -> list[Told]:
    """What each merge forgot, worked out where it is not finished; `progress` is told of each."""
    groups: dict[tuple[str, str], list[tuple[LastMerge, Forgot]]] = {}
    known: dict[tuple[str, int], dict] = {}
    for one in merges:
        remembered = known.setdefault((one.job.regime, one.job.seed), {})
        done = compare_one(setting, one.job, one.entry, one.base, one.experts, one.merged, remembered)  # type: ignore[arg-type]
        groups.setdefault((one.entry.label, one.job.regime), []).append((one, done))
        progress(1)
    return [_told(some) for some in groups.values()]


def _told(some: Sequence[tuple[LastMerge, Forgot]]) -> Told:
    first = some[0][0]
    files = [{Path(path).name: Path(path) for path in done.paths} for _, done in some]
    merged = Merged(
        first.entry.label, first.entry.method, first.job.regime, tuple(done.summary for _, done in some)
    )
    return Told(
        merged,
        tuple(one.job.seed for one, _ in some),
        tuple(read_table(known[DIRECTIONS]) for known in files),
        tuple(answers_in(known[ANSWERS]) for known in files if ANSWERS in known),
    )


def told_of_recipe(spec: MergeSpec, setting: Setting | None, progress: Callable[[int], None]) -> list[Told]:
    """What the merge of a recipe, which is made now and not kept, forgot; without a setting no examples are known.

    Raises:
        SpecError: the setting has not a task for each expert, or its workload no probe.
    """
    tasks = () if setting is None else setting.tasks
    if setting is not None and len(tasks) != len(spec.experts):
        raise SpecError(
            f"The recipe has {len(spec.experts)} experts, but the study {len(tasks)} tasks: {', '.join(tasks)}. The "
            "experts must be those of the tasks, in order; leave tasks out with --set 'tasks=[…]'."
        )
    lost = lost_by(spec, tasks=tasks, keeps_states=setting is not None, progress=progress)
    answers = () if setting is None else (answers_of_recipe(setting, spec, lost.states),)
    summary = summarise(lost.table, shares_of(answers[0]) if answers else None)
    return [Told(Merged(spec.method, spec.method, None, (summary,)), (spec.seed,), (lost.table,), answers)]


def report_of(title: str, facts: Sequence[tuple[str, str]], told: Sequence[Told], count: int) -> Report:
    """The page."""
    tasks = list(
        dict.fromkeys(task for one in told for found in one.merged.summaries for task in found.tasks)
    )
    losses = largest_losses(told[0].directions, count) if len(told) == 1 else []
    examples = often_forgotten(table for one in told for table in one.answers)
    return page(title, facts, [one.merged for one in told], tasks, losses, examples)


def whole_tables(told: Sequence[Told]) -> dict[str, pa.Table]:
    """All tables of a kind as one, with columns for regime and seed, by the name of its file."""
    kinds = {DIRECTIONS: "directions", ANSWERS: "answers"}
    found = {name: [part for one in told for part in _with_origin(one, kind)] for name, kind in kinds.items()}
    return {name: pa.concat_tables(some).unify_dictionaries() for name, some in found.items() if some}


def _with_origin(one: Told, kind: str) -> list[pa.Table]:
    tables = []
    for seed, table in zip(one.seeds, getattr(one, kind), strict=bool(getattr(one, kind))):
        regimes = pa.array([one.merged.regime] * len(table), pa.string())
        seeds = pa.array([seed] * len(table), pa.int64())
        tables.append(table.append_column("regime", regimes).append_column("seed", seeds))
    return tables
