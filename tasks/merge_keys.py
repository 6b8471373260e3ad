"""What a merge is known by among the finished work, and when it is finished."""

from dataclasses import replace
from typing import Any

from merge_lib import kernels, registry
from tasks.caching import cache_key
from tasks.evaluation import find_scores
from tasks.facts import is_decoded
from tasks.folding import SEQUENCE
from tasks.jobs import Finished, MergeEntry, MergeJob, Setting
from tasks.learning import learning_key

_ARITHMETIC = ("merge_lib.engine", "merge_lib.streaming.executing", *kernels.modules())
COMPILERS = ("numba", "llvmlite")


def merging_key(
    setting: Setting, entry: MergeEntry, seed: int, base_digest: str, expert_digests: list[str]
) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Key, inputs and parameters of one merge; the seed counts only for methods that draw."""
    info = registry.get(entry.method)
    inputs = {f"expert_{t}": digest for t, digest in enumerate(expert_digests)}
    if info.needs_base or entry.layer_scales:
        inputs["base"] = base_digest
    params = {"method": entry.method, "params": entry.params, "seed": seed if info.randomised else 0}
    if entry.layer_scales is not None:
        params["layer_scales"] = entry.layer_scales
    if entry.equalise is not None:
        params["equalise"] = entry.equalise
    data, asked, learning = learning_key(setting, entry, setting.tasks[: len(expert_digests)], seed)
    inputs, params = inputs | data, params | asked
    folding = (SEQUENCE,) if info.kind == "continual" else ()
    code = (*_ARITHMETIC, *folding, info.module, *learning)
    return (
        cache_key("merge", inputs=inputs, params=params, code=code, compilers=COMPILERS),
        inputs,
        params,
    )


def recorded_merge(setting: Setting, key: str) -> Finished | None:
    """What is known of a merge that was made once; with its scores, where it was not kept."""
    record = setting.store.find("merge", key)
    if record is None:
        return None
    done = Finished.from_record(record, setting.store.folder("merge", key), reused=True)
    return done if done.path is not None else replace(done, scores=find_scores(setting, done.digest))


def is_finished(done: Finished | None, *, is_kept: bool) -> bool:
    """Whether nothing is left to do of a merge: it was kept, or need not be and was evaluated."""
    return done is not None and (done.path is not None or (not is_kept and done.scores is not None))


def is_stored(job: MergeJob, entry: MergeEntry) -> bool:
    """Whether the merge is to leave a file; a method that gives a model for each task leaves none."""
    return job.is_kept and not is_decoded(entry)
