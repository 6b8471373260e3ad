"""Methods that give a model for each task: each is evaluated on its own task, what they share on the others."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import xxhash

from tasks.evaluation import evaluate_each, find_scores, keep_scores, probes_of
from tasks.facts import SCALE_BYTES, SHARED, is_folded
from tasks.folding import Folding
from tasks.jobs import Finished, Scores, Setting
from tasks.learning import told_of_learning
from tasks.progress import Step, report
from tasks.routing import Routes
from tasks.slots import memory_share

if TYPE_CHECKING:
    from merge_lib.spec import MergeSpec
    from merge_lib.streaming.in_memory import MergedInMemory
    from tasks.merging import Pending


@dataclass(frozen=True)
class Decoded:
    """The models of one entry, told as one merge.

    Attributes:
        digest: of the digests of all models, in order.
        kept: what must be kept, in bytes: the shared vector, a mask of one bit an entry for each task, and its scale.
    """

    digest: str
    kept: dict[str, int]
    merged_s: float
    evaluated_s: float
    accuracy: dict[str, float]

    @property
    def size_bytes(self) -> int:
        """Of all that must be kept."""
        return sum(self.kept.values())


def specs_of(spec: "MergeSpec", experts: int) -> list["MergeSpec"]:
    """One for each task seen, and the shared one last."""
    from merge_lib import MergeSpec

    fields = {name: getattr(spec, name) for name in MergeSpec.model_fields}
    return [
        MergeSpec(**{**fields, "params": {**spec.params, "task": task}}) for task in (*range(experts), SHARED)
    ]


def merge_decoded(
    setting: Setting,
    stage: str,
    work: "Pending",
    spec: "MergeSpec",
    base: Finished,
    experts: list[Finished],
) -> dict[str, Finished]:
    """A model for each task, evaluated on that task and by each of the work's routes; none of them is kept.

    Args:
        setting: of the run.
        stage: what the merges of this stage are called.
        work: the merge.
        spec: what it is made of.
        base: of the study.
        experts: those seen so far.

    Returns:
        The merge and its routes, by key.
    """
    label = f"{work.entry.label} · {stage}"
    folding = (
        Folding(setting, work.entry, work.params["seed"], base, experts) if is_folded(work.entry) else None
    )
    routes = Routes(setting, work.routes, base, setting.tasks[: len(experts)])
    earlier = setting.store.find("merge", work.key)
    known = None if earlier is None else find_scores(setting, earlier.values["digest"])
    made = evaluate_decoded(setting, label, _models(setting, spec, folding), len(experts), routes, known)
    values = {"checkpoint": None, "digest": made.digest, "size_bytes": made.size_bytes}
    if folding is not None:
        values["state_bytes"] = folding.state_bytes()
    with setting.store.writing("merge", work.key) as (_, commit):
        told = {**values, "elapsed_s": made.merged_s, **told_of_learning(setting, spec)}
        record = commit(inputs=work.inputs, params=work.params, values=told)
    if known is None:
        report(Step("merge", label, 1.0))
    scores = known or keep_scores(setting, label, made.digest, made.accuracy, made.evaluated_s)
    done = Finished.from_record(record, setting.store.folder("merge", work.key), reused=False)
    done = replace(done, scores=scores)
    kept = made.kept if folding is None else folding.kept()
    return {work.key: done, **routes.finish(done, kept, stage)}


def _models(setting: Setting, spec: "MergeSpec", folding: Folding | None) -> "Iterator[MergedInMemory]":
    """The model of each task, and what they share last: out of a state, or merged from the experts."""
    if folding is not None:
        return folding.decoded()
    from merge_lib import merge_in_turn

    specs = specs_of(spec, len(spec.experts))
    return merge_in_turn(specs, memory_bytes=memory_share(), threads=setting.threads)


def evaluate_decoded(
    setting: Setting,
    label: str,
    merges: "Iterator[MergedInMemory]",
    experts: int,
    routes: "Routes",
    known: Scores | None = None,
) -> Decoded:
    """Evaluate each model on its own task, and what they share on those that are still to come and on probes.

    Args:
        setting: of the run.
        label: of the merge.
        merges: the model of each task, and what they share last.
        experts: how many tasks there are models for.
        routes: other ways to answer by these models, which are asked as they come.
        known: what was measured already, and is not measured again.
    """
    digests: list[str] = []
    accuracy = {} if known is None else known.by_name(setting.tasks)
    shared = (*setting.tasks[experts:], *probes_of(setting))
    merged_s, size, entries = 0.0, 0, 0
    started = time.perf_counter()
    for place in range(experts + 1):
        merged = next(merges)
        own = setting.tasks[place : place + 1] if place < experts else shared
        if own and known is None:
            accuracy |= evaluate_each(setting, f"{label} · {own[0]}", merged.digest, merged.tensors, own)
        if place < experts:
            routes.ask(place, merged.tensors)
        digests.append(merged.digest)
        merged_s += merged.elapsed_s
        size = merged.size_bytes
        entries = sum(tensor.numel() for tensor in merged.tensors.values() if tensor.is_floating_point())
    digest = f"xxh3:{xxhash.xxh3_128_hexdigest(' '.join(digests).encode())}"
    kept = {"unified": size, "masks": experts * -(-entries // 8), "rescalers": experts * SCALE_BYTES}
    evaluated_s = max(time.perf_counter() - started - merged_s, 0.0)
    return Decoded(digest, kept, merged_s, evaluated_s, accuracy)
