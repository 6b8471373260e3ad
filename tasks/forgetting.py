"""What the merges of a job forgot: directions, answers and pictures, finished work for each merge."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from merge_lib import registry, workloads
from merge_lib.results import ForgettingSummary, ForgottenExample, Row
from tasks.answering import answers_of_checkpoint
from tasks.caching import cache_key
from tasks.evaluation import evaluate_each
from tasks.facts import merged_as
from tasks.jobs import Finished, Forgot, Found, MergeEntry, MergeJob, Setting
from tasks.merge_keys import merging_key
from tasks.merging import merge_spec
from tasks.observing import probe_of
from tasks.progress import Step, report
from tasks.records import Record, RecordStore
from tasks.slots import compute_slot, sole_worker
from tasks.training import open_workload

if TYPE_CHECKING:
    import pyarrow as pa

    from merge_lib.forgetting.lost import Lost, Remembered
    from merge_lib.spec import MergeSpec
    from merge_lib.types import StateDict

KIND = "forgetting"
FORGETTING = "merge_lib.forgetting"
DIRECTIONS, ANSWERS, PICTURES = "directions.parquet", "answers.parquet", "forgotten.svg"


@task(task_run_name="forgetting {job.label}", cache_policy=NO_CACHE)
def compare_merges(
    setting: Setting,
    job: MergeJob,
    base: Finished,
    experts: list[Finished],
    merged: list[Finished],
    found: list[Found],
) -> list[Forgot]:
    """What each merge of the job forgot, in its order; `found` has coefficients that were searched for."""
    known: Remembered = {}
    entries = merged_as(job.settled(found).entries)
    return [
        compare_one(setting, job, entry, base, experts, done, known)
        for entry, done in zip(entries, merged, strict=True)
    ]


def forgetting_key(
    setting: Setting, entry: MergeEntry, seed: int, base_digest: str, expert_digests: list[str]
) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Key, inputs and parameters of what one merge forgot."""
    config = workloads.parse(setting.workload)
    merge, inputs, params = merging_key(setting, entry, seed, base_digest, expert_digests)
    inputs = {**inputs, "base": base_digest, **setting.hashes_of(config.task_snapshots(setting.tasks))}
    params = {
        **params,
        "merge": merge,
        "label": entry.label,
        "of": list(setting.tasks),
        "workload": config.parameters_of("evaluate"),
    }
    code = (FORGETTING, registry.get(entry.method).module, *config.code("evaluate"))
    return cache_key(KIND, inputs=inputs, params=params, code=code), inputs, params


def recorded_forgetting(setting: Setting, key: str) -> Forgot | None:
    """What is recorded under that key, if it is among the finished work."""
    record = setting.store.find(KIND, key)
    return None if record is None else _forgot(setting, record, reused=True)


def compare_one(
    setting: Setting,
    job: MergeJob,
    entry: MergeEntry,
    base: Finished,
    experts: list[Finished],
    merged: Finished | None = None,
    known: "Remembered | None" = None,
) -> Forgot:
    """What one merge forgot, unless it is among the finished work.

    `known` is filled with, or has, what follows from the experts alone.

    Raises:
        MergeError: a checkpoint cannot be read, or the method refuses.
    """
    digests = [expert.digest for expert in experts]
    told = forgetting_key(setting, entry, job.seed, base.digest, digests)
    label = f"{entry.label} · {job.label}"
    with sole_worker(told[0]):
        done = recorded_forgetting(setting, told[0])
        if done is None:
            with compute_slot():
                report(Step(KIND, label, 0.0))
                work = _Comparison(setting, entry, job.seed, base, experts, merged)
                done = _forgot(setting, work.keep(*told, {} if known is None else known), reused=False)
    report(Step(KIND, label, 1.0, reused=done.reused))
    return done


class _Comparison:
    """One merge that is compared with its experts."""

    def __init__(
        self,
        setting: Setting,
        entry: MergeEntry,
        seed: int,
        base: Finished,
        experts: list[Finished],
        merged: Finished | None,
    ) -> None:
        self.setting, self.entry, self.seed = setting, entry, seed
        self.base, self.experts, self.merged = base, experts, merged
        self.tasks = setting.tasks[: len(experts)]

    def keep(self, key: str, inputs: dict[str, str], params: dict[str, Any], known: "Remembered") -> Record:
        """Compare, and write the record."""
        from merge_lib.diagnostics import write_table
        from merge_lib.forgetting.summary import summarise

        started = time.perf_counter()
        with self.setting.store.writing(KIND, key) as (folder, commit):
            lost = self._lost(known)
            write_table(lost.table, folder / DIRECTIONS)
            accuracies = self._accuracies(lost.states, folder)
            summary = summarise(lost.table, accuracies, f"{KIND}/{key}")
            values = {"summary": asdict(summary), "elapsed_s": time.perf_counter() - started}
            return commit(inputs=inputs, params=params, values=values)

    def _lost(self, known: "Remembered") -> "Lost":
        from merge_lib.forgetting import lost_by

        spec = merge_spec(self.setting, self.entry, self.seed, self.base, self.experts)
        path = self.merged.path if self.merged is not None else None
        return lost_by(
            spec,
            None if path is None else Path(path),
            label=self.entry.label,
            tasks=self.tasks,
            remembered=known,
            keeps_states=True,
        )

    def _accuracies(self, states: "list[StateDict]", folder: Path) -> dict[str, dict[str, float]]:
        """Shares of examples by task; where the workload can be shown to merges, its answers are written, too."""
        workload = open_workload(self.setting)
        if not isinstance(workload, workloads.Probing):
            return self._measured(workload, states)
        from merge_lib.diagnostics import write_table
        from merge_lib.forgetting.comparison import shares_of

        table = self._answers(workload, states)
        write_table(table, folder / ANSWERS)
        _write_pictures(table, folder / PICTURES)
        return shares_of(table)

    def _answers(self, workload: workloads.Probing, states: "list[StateDict]") -> "pa.Table":
        from merge_lib.forgetting import compare_answers
        from merge_lib.forgetting.answers import answers_of_merge

        probe = workload.probe()
        base = answers_of_checkpoint(self.setting, probe, self.base, self.tasks)
        experts = {}
        for name, expert in zip(self.tasks, self.experts, strict=True):
            experts |= answers_of_checkpoint(self.setting, probe, expert, (name,))
        merges = answers_of_merge(probe, states, self.tasks)
        return compare_answers(probe, (self.entry.method, self.entry.label), base, experts, merges)

    def _measured(
        self, workload: workloads.Workload, states: "list[StateDict]"
    ) -> dict[str, dict[str, float]]:
        """Accuracies of a workload that says nothing of single examples."""
        found = {}
        for place, name in enumerate(self.tasks):
            merged = states[place if len(states) > 1 else 0]
            found[name] = {
                "before": self._score(self.experts[place], name),
                "after": workload.evaluate(merged, (name,))[name],
                "base": self._score(self.base, name),
            }
        return found

    def _score(self, checkpoint: Finished, name: str) -> float:
        from merge_lib.checkpoints import read_state_dict

        state = read_state_dict(Path(checkpoint.path or ""))
        return evaluate_each(self.setting, name, checkpoint.digest, state, (name,))[name]


def answers_of_recipe(setting: Setting, spec: "MergeSpec", states: "list[StateDict]") -> "pa.Table":
    """The answers of a merge beside those of its base and experts, which lie where the recipe says; nothing is kept.

    Args:
        setting: of a study whose tasks are those of the experts, in order.
        spec: what was merged.
        states: the merged model, or that of each task.
    """
    from merge_lib.checkpoints import read_state_dict
    from merge_lib.forgetting import answers_of, compare_answers
    from merge_lib.forgetting.answers import answers_of_merge

    probe = probe_of(setting)
    base = answers_of(probe, read_state_dict(spec.base), setting.tasks)  # type: ignore[arg-type]
    experts = {}
    for name, path in zip(setting.tasks, spec.experts, strict=True):
        experts |= answers_of(probe, read_state_dict(path, base=spec.base), (name,))
    merges = answers_of_merge(probe, states, setting.tasks)
    return compare_answers(probe, (spec.method, spec.method), base, experts, merges)


def _write_pictures(table: "pa.Table", path: Path) -> None:
    """The examples that are shown, as a drawing; nothing where there are no pictures."""
    from merge_lib.forgetting import often_forgotten
    from merge_lib.report.examples import example_figure
    from merge_lib.report.render import write_figure

    figure = example_figure(often_forgotten([table]))
    if figure is not None:
        write_figure(figure, path)


def _forgot(setting: Setting, record: Record, *, reused: bool) -> Forgot:
    folder = setting.store.folder(KIND, record.key)
    paths = tuple(str(folder / name) for name in sorted(record.values["files"]))
    summary = ForgettingSummary(**record.values["summary"])
    return Forgot(record.key, paths, summary, record.values["elapsed_s"], reused)


def most_forgotten(store: RecordStore, rows: Sequence[Row]) -> list[ForgottenExample]:
    """The examples that most of the rows' merges forgot, with pictures or texts where there are some."""
    from merge_lib.forgetting import often_forgotten

    records = [row.forgetting.record for row in rows if row.forgetting is not None]
    paths = [path for record in records if (path := store.root / record / ANSWERS).is_file()]
    return often_forgotten(answers_in(path) for path in paths)


def answers_in(path: Path) -> "pa.Table":
    """The answers that a record keeps."""
    from merge_lib.diagnostics import read_table
    from merge_lib.forgetting.comparison import ANSWERS as SCHEMA

    return read_table(path, SCHEMA)
