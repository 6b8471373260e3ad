"""Merging: every method on the experts seen so far, from one read of them."""

from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from merge_lib import registry
from tasks.caching import cache_key
from tasks.jobs import Finished, MergeEntry, MergeJob, Setting
from tasks.progress import Step, report
from tasks.training import CHECKPOINT, find_checkpoint


@task(task_run_name="merge {job.label}", cache_policy=NO_CACHE)
def merge_experts(setting: Setting, job: MergeJob, base: Finished, experts: list[Finished]) -> list[Finished]:
    """One merged checkpoint for each entry of the job, in its order."""
    return [merge_one(setting, job, entry, base, experts) for entry in job.entries]


def merging_key(
    entry: MergeEntry, seed: int, base_digest: str, expert_digests: list[str]
) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Key, inputs and parameters of one merge; the seed counts only for methods that draw."""
    info = registry.get(entry.method)
    inputs = {f"expert_{t}": digest for t, digest in enumerate(expert_digests)}
    if info.needs_base:
        inputs["base"] = base_digest
    params = {"method": entry.method, "params": entry.params, "seed": seed if info.randomised else 0}
    key = cache_key("merge", inputs=inputs, params=params, code=("merge_lib.engine", info.module))
    return key, inputs, params


def merge_one(
    setting: Setting, job: MergeJob, entry: MergeEntry, base: Finished, experts: list[Finished]
) -> Finished:
    """Merge by one method, unless the result is among the finished work."""
    label = f"{entry.label} · {job.label}"
    key, inputs, params = merging_key(entry, job.seed, base.digest, [expert.digest for expert in experts])
    if (found := find_checkpoint(setting, "merge", key, label)) is not None:
        return found

    from merge_lib import MergeSpec, merge_checkpoints

    report(Step("merge", label, 0.0))
    spec = MergeSpec(
        method=entry.method,
        params=entry.params,
        base=Path(base.path),
        experts=tuple(Path(expert.path) for expert in experts),
        seed=params["seed"],
    )
    with setting.store.writing("merge", key) as (folder, commit):
        lineage = {"kind": "merge", "key": key, "inputs": inputs, "params": params}
        made = merge_checkpoints(spec, folder / CHECKPOINT, lineage=lineage)
        values = {"checkpoint": CHECKPOINT, "digest": made.digest, "size_bytes": made.size_bytes}
        record = commit(inputs=inputs, params=params, values={**values, "elapsed_s": made.elapsed_s})
    report(Step("merge", label, 1.0))
    return Finished.from_record(record, setting.store.folder("merge", key), reused=False)
