"""Audits: what the merges of a job removed, each a table among the finished work."""

import time
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from merge_lib import registry
from merge_lib.results import AuditSummary
from tasks.caching import cache_key
from tasks.facts import merged_as
from tasks.jobs import Audited, Finished, Found, MergeEntry, MergeJob, Setting
from tasks.merge_keys import merging_key
from tasks.merging import merge_spec
from tasks.progress import Step, report
from tasks.records import Record
from tasks.slots import compute_slot, sole_worker

AUDITING = "merge_lib.diagnostics.auditing"
SUMMARISING = "merge_lib.diagnostics.summary"
TABLE = "audit.parquet"


@task(task_run_name="audit {job.label}", cache_policy=NO_CACHE)
def audit_merges(
    setting: Setting,
    job: MergeJob,
    base: Finished,
    experts: list[Finished],
    merged: list[Finished],  # noqa: ARG001 -- an audit comes after what its merge learns from data
    found: list[Found],
) -> list[Audited]:
    """One audit for each entry of the job, in its order; `found` has coefficients that were searched for.

    Entries that are merged alike have one audit.
    """
    entries = merged_as(job.settled(found).entries)
    return [audit_one(setting, job, entry, base, experts) for entry in entries]


def auditing_key(
    setting: Setting, entry: MergeEntry, seed: int, base_digest: str, expert_digests: list[str]
) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Key, inputs and parameters of the audit of one merge."""
    merge, inputs, params = merging_key(setting, entry, seed, base_digest, expert_digests)
    inputs = {**inputs, "base": base_digest}
    params = {
        **params,
        "merge": merge,
        "label": entry.label,
        "of": list(setting.tasks[: len(expert_digests)]),
    }
    code = (AUDITING, SUMMARISING, registry.get(entry.method).module)
    return cache_key("audit", inputs=inputs, params=params, code=code), inputs, params


def recorded_audit(setting: Setting, key: str) -> Audited | None:
    """The audit of that key, if it is among the finished work."""
    record = setting.store.find("audit", key)
    return None if record is None else _audited(setting, record, reused=True)


def audit_one(
    setting: Setting, job: MergeJob, entry: MergeEntry, base: Finished, experts: list[Finished]
) -> Audited:
    """The audit of one merge, unless it is among the finished work.

    Raises:
        MergeError: a checkpoint cannot be read, or the method refuses.
    """
    digests = [expert.digest for expert in experts]
    key, inputs, params = auditing_key(setting, entry, job.seed, base.digest, digests)
    label = f"{entry.label} · {job.label}"
    with sole_worker(key):
        done = recorded_audit(setting, key)
        if done is None:
            with compute_slot():
                report(Step("audit", label, 0.0))
                record = _audit(setting, job, entry, base, experts, (key, inputs, params))
            done = _audited(setting, record, reused=False)
    report(Step("audit", label, 1.0, reused=done.reused))
    return done


def _audit(
    setting: Setting,
    job: MergeJob,
    entry: MergeEntry,
    base: Finished,
    experts: list[Finished],
    told: tuple[str, dict[str, str], dict[str, Any]],
) -> Record:
    from dataclasses import asdict

    from merge_lib.diagnostics import audit, write_table
    from merge_lib.diagnostics.summary import summarise

    key, inputs, params = told
    started = time.perf_counter()
    with setting.store.writing("audit", key) as (folder, commit):
        spec = merge_spec(setting, entry, job.seed, base, experts)
        table = audit(spec, label=entry.label, tasks=setting.tasks[: len(experts)])
        write_table(table, folder / TABLE)
        summary = asdict(summarise(table, f"audit/{key}"))
        values = {"table": TABLE, "summary": summary, "elapsed_s": time.perf_counter() - started}
        return commit(inputs=inputs, params=params, values=values)


def _audited(setting: Setting, record: Record, *, reused: bool) -> Audited:
    values = record.values
    path = setting.store.folder("audit", record.key) / values["table"]
    return Audited(record.key, str(path), AuditSummary(**values["summary"]), values["elapsed_s"], reused)


def table_of(store_root: Path, summary: AuditSummary) -> Path:
    """Where the whole table of an audit lies."""
    return store_root / summary.record / TABLE
