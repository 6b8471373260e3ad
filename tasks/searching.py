"""Searching: the coefficients of a method's entry that do best on the validation split.

A trial, the accuracy of one setting on each task seen, is finished work of its own; so is the search, which has them
all. A search that was killed asks for the same settings again and finds what it had.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from merge_lib import registry, workloads
from merge_lib.errors import MergeError
from merge_lib.results import SearchRef
from merge_lib.search import (
    Coefficients,
    Range,
    Search,
    Trial,
    best_of,
    own_setting,
    run_search,
    settled_scales,
)
from tasks.caching import cache_key
from tasks.decoding import specs_of
from tasks.facts import is_decoded
from tasks.jobs import Finished, Found, MergeEntry, SearchJob, Setting
from tasks.merge_keys import COMPILERS, merging_key
from tasks.merging import merge_spec
from tasks.progress import Step, StoppedError, report
from tasks.records import Record
from tasks.slots import compute_slot, memory_share, sole_worker
from tasks.training import open_workload

if TYPE_CHECKING:
    from merge_lib.spec import MergeSpec

SEARCHING, SPLIT = "merge_lib.search", "validation"


@task(task_run_name="search {job.label}", cache_policy=NO_CACHE)
def search_coefficients(setting: Setting, job: SearchJob, base: Finished, experts: list[Finished]) -> Found:
    """The best setting of the job's entry on the tasks of these experts."""
    return find_coefficients(setting, job, base, experts)


@dataclass(frozen=True)
class _Trial:
    """One setting, as a merge that is to be evaluated on the validation split."""

    entry: MergeEntry
    setting: Coefficients
    key: str
    inputs: dict[str, str]
    params: dict[str, Any]


@dataclass(frozen=True)
class Searching:
    """The search of one entry with some experts of a sequence."""

    setting: Setting
    job: SearchJob
    base: Finished
    experts: Sequence[Finished]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Those that the experts were trained on."""
        return self.setting.tasks[: len(self.experts)]

    @property
    def label(self) -> str:
        """Whose search it is."""
        return f"{self.job.entry.label} · {self.job.label}"

    @cached_property
    def search(self) -> Search:
        """What the study asks for."""
        return Search.model_validate(self.job.entry.search)

    def run(self, key: str, inputs: dict[str, str], params: dict[str, Any]) -> Record:
        """Make the trials that are not among the finished work, and keep them all as one record."""
        trials = self._try(self._objectives)
        best = best_of(trials)
        records = [self._record(trial.setting) for trial in trials]
        values = {
            "trials": [
                {**vars(trial), "accuracy": record.values["accuracy"]}
                for trial, record in zip(trials, records, strict=True)
            ],
            "best": best.setting,
            "objective": best.objective,
            "elapsed_s": sum({record.key: record.values["elapsed_s"] for record in records}.values()),
        }
        with self.setting.store.writing("search", key) as (_, commit):
            return commit(inputs=inputs, params=params, values=values)

    def finished(self) -> int:
        """How many of its trials are among the finished work, as far as it can go on without making one."""
        count = 0

        def look_up(settings: Sequence[Coefficients]) -> list[float]:
            nonlocal count
            records = [self.setting.store.find("trial", self._trial(setting).key) for setting in settings]
            found = [record for record in records if record is not None]
            count += len(found)
            if len(found) < len(records):
                raise _UnfinishedError
            return [self._objective(record) for record in found]

        with suppress(_UnfinishedError):
            self._try(look_up)
        return count

    def _try(self, evaluate: Callable[[Sequence[Coefficients]], Sequence[float]]) -> tuple[Trial, ...]:
        """All trials; which settings they have follows from what those before were worth."""
        info, entry = registry.get(self.job.entry.method), self.job.entry
        spans = self.search.spans(_blocks(self.base))
        integers = {parameter.name for parameter in info.parameters if parameter.kind == "integer"}
        defaults = {parameter.name: parameter.default for parameter in info.parameters}
        own = own_setting(spans, {**defaults, **entry.params}, entry.layer_scales)
        return run_search(self.search, spans, evaluate, integers=frozenset(integers), first=own)

    def _objectives(self, settings: Sequence[Coefficients]) -> list[float]:
        """One number a setting, in order."""
        trials = {trial.key: trial for trial in map(self._trial, settings)}
        store = self.setting.store
        missing = [trial for trial in trials.values() if store.find("trial", trial.key) is None]
        for _ in range(len(trials) - len(missing)):
            report(Step("trial", self.label, 1.0, reused=True))
        if missing:
            with compute_slot():
                self._make_all(missing)
        return [self._objective(self._record(setting)) for setting in settings]

    def _objective(self, record: Record) -> float:
        """What a trial was worth."""
        combine = fmean if self.search.objective == "mean" else min
        return combine(record.values["accuracy"].values())

    def _make_all(self, trials: Sequence[_Trial]) -> None:
        """From one reading of base and experts; if a setting is refused, one by one, to say which."""
        try:
            self._make(trials)
        except StoppedError:
            raise
        except MergeError as refusal:
            if len(trials) == 1:
                raise MergeError(f"{self.label}, trial {trials[0].setting}: {refusal}") from refusal
            for trial in trials:
                if self.setting.store.find("trial", trial.key) is None:
                    self._make_all([trial])

    def _make(self, trials: Sequence[_Trial]) -> None:
        from merge_lib import merge_in_turn

        models = [self._models(trial) for trial in trials]
        specs = [spec for one in models for spec, _ in one]
        merges = merge_in_turn(specs, memory_bytes=memory_share(), threads=self.setting.threads)
        workload = open_workload(self.setting)
        for trial, one in zip(trials, models, strict=True):
            with self.setting.store.writing("trial", trial.key) as (_, commit):
                accuracy: dict[str, float] = {}
                digests, merged_s = [], 0.0
                for _, tasks in one:
                    merged = next(merges)
                    accuracy |= workload.evaluate(merged.tensors, tasks, split=SPLIT)
                    digests.append(merged.digest)
                    merged_s += merged.elapsed_s
                values = {"accuracy": accuracy, "digests": digests, "elapsed_s": merged_s}
                commit(inputs=trial.inputs, params=trial.params, values=values)
            report(Step("trial", self.label, 1.0))

    def _models(self, trial: _Trial) -> list[tuple["MergeSpec", tuple[str, ...]]]:
        """What is merged for a trial, and on which tasks each is evaluated: one model, or one a task."""
        spec = merge_spec(self.setting, trial.entry, self.job.seed, self.base, list(self.experts))
        if not is_decoded(trial.entry):
            return [(spec, self.tasks)]
        *own, _shared = specs_of(spec, len(self.experts))
        return [(one, (name,)) for one, name in zip(own, self.tasks, strict=True)]

    def _record(self, setting: Coefficients) -> Record:
        record = self.setting.store.find("trial", self._trial(setting).key)
        if record is None:
            raise MergeError(f"{self.label}: a finished trial is gone from the store. Run the study again.")
        return record

    def _trial(self, setting: Coefficients) -> _Trial:
        entry = settle(self.job.entry, setting)
        digests = [expert.digest for expert in self.experts]
        merge, _, params = merging_key(self.setting, entry, self.job.seed, self.base.digest, digests)
        config = workloads.parse(self.setting.workload)
        inputs = {"merge": merge, **self.setting.hashes_of(config.task_snapshots(self.tasks))}
        asked = {"workload": config.parameters_of("evaluate"), "of": list(self.setting.tasks), "split": SPLIT}
        params = {**params, **asked, "tasks": list(self.tasks)}
        key = cache_key("trial", inputs=inputs, params=params, code=config.code("evaluate"))
        return _Trial(entry, setting, key, inputs, params)


class _UnfinishedError(Exception):
    """A trial is not among the finished work."""


def finished_trials(setting: Setting, job: SearchJob, base: Finished, experts: Sequence[Finished]) -> int:
    """How many trials a search that was not finished has; nothing is made."""
    return Searching(setting, job, base, experts).finished()


def find_coefficients(setting: Setting, job: SearchJob, base: Finished, experts: Sequence[Finished]) -> Found:
    """What the search found, from the finished work if it is there."""
    searching = Searching(setting, job, base, experts)
    key, inputs, params = searching_key(
        setting, job.entry, job.seed, base.digest, [expert.digest for expert in experts]
    )
    with sole_worker(key):
        record = setting.store.find("search", key)
        if record is not None:
            for _ in record.values["trials"]:
                report(Step("trial", searching.label, 1.0, reused=True))
            return found_in(record, job.entry, len(experts), reused=True)
        return found_in(searching.run(key, inputs, params), job.entry, len(experts), reused=False)


def found_in(record: Record, entry: MergeEntry, experts: int, *, reused: bool) -> Found:
    """What the record of a finished search says of an entry."""
    values = record.values
    best = settle(entry, values["best"])
    told = SearchRef(
        values=values["best"],
        objective=values["objective"],
        trials=len(values["trials"]),
        experts=experts,
        elapsed_s=values["elapsed_s"],
        record=f"{record.kind}/{record.key}",
    )
    return Found(entry.label, best.params, best.layer_scales, told, reused)


def recorded_search(
    setting: Setting, job: SearchJob, base: Finished, expert_digests: Sequence[str]
) -> Found | None:
    """What a finished search found; None if it is not finished."""
    key = searching_key(setting, job.entry, job.seed, base.digest, expert_digests)[0]
    record = setting.store.find("search", key)
    return None if record is None else found_in(record, job.entry, len(expert_digests), reused=True)


def searching_key(
    setting: Setting, entry: MergeEntry, seed: int, base_digest: str, expert_digests: Sequence[str]
) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Key, inputs and parameters of a search: of its merges, of their evaluation, and of the search itself."""
    merge, inputs, params = merging_key(
        setting, replace(entry, params=_started(entry)), seed, base_digest, list(expert_digests)
    )
    tasks = setting.tasks[: len(expert_digests)]
    config = workloads.parse(setting.workload)
    inputs = {**inputs, "base": base_digest, **setting.hashes_of(config.task_snapshots(tasks))}
    asked = {"workload": config.parameters_of("evaluate"), "of": list(setting.tasks), "split": SPLIT}
    params = {**params, **asked, "params": entry.params, "search": entry.search, "tasks": list(tasks)}
    code = (SEARCHING, *config.code("evaluate"))
    key_inputs = {**inputs, "merge": merge}
    key = cache_key("search", inputs=key_inputs, params=params, code=code, compilers=(*COMPILERS, "optuna"))
    return key, inputs, params


def _started(entry: MergeEntry) -> dict[str, Any]:
    """Parameters that stand for those of the trials in the key: one value of each range."""
    ranges = Search.model_validate(entry.search).params
    start = {name: span.low if isinstance(span, Range) else span[0] for name, span in ranges.items()}
    return {**entry.params, **start}


def settle(entry: MergeEntry, setting: Coefficients) -> MergeEntry:
    """The entry with the coefficients of one trial, and without the search."""
    own = {name: value for name, value in setting.items() if not name.startswith("layer_scales.")}
    params = registry.get(entry.method).check_params({**entry.params, **own})
    scales = settled_scales(entry.layer_scales, setting)
    return replace(entry, params=params, layer_scales=scales, search=None)


def _blocks(base: Finished) -> int:
    """How many blocks the model has, if it has one stack of them; else 0."""
    from merge_lib.checkpoints import open_checkpoint
    from merge_lib.layers import describe_layers

    with open_checkpoint(Path(base.path or "")) as reader:
        layers = describe_layers({name: reader.shape(name) for name in reader.names})
    counts = {layer.blocks for layer in layers.values() if layer.block is not None}
    return counts.pop() if len(counts) == 1 else 0
