"""Methods that give a model for each task: each is evaluated on its own task, what they share on the others."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import xxhash

from tasks.evaluation import evaluate_each
from tasks.facts import SHARED
from tasks.jobs import Setting

if TYPE_CHECKING:
    from merge_lib.spec import MergeSpec
    from merge_lib.streaming.in_memory import MergedInMemory

SCALE_BYTES = 4  # of each task


@dataclass(frozen=True)
class Decoded:
    """The models of one entry, told as one merge.

    Attributes:
        digest: of the digests of all models, in order.
        size_bytes: what must be kept: the shared vector, a mask of one bit an entry for each task, and its scale.
    """

    digest: str
    size_bytes: int
    merged_s: float
    evaluated_s: float
    accuracy: dict[str, float]


def specs_of(spec: "MergeSpec", experts: int) -> list["MergeSpec"]:
    """One for each task seen, and the shared one last."""
    from merge_lib import MergeSpec

    fields = {name: getattr(spec, name) for name in MergeSpec.model_fields}
    return [
        MergeSpec(**{**fields, "params": {**spec.params, "task": task}}) for task in (*range(experts), SHARED)
    ]


def evaluate_decoded(
    setting: Setting, label: str, merges: "Iterator[MergedInMemory]", experts: int
) -> Decoded:
    """Evaluate each model on its own task, and what they share on those that are still to come."""
    digests: list[str] = []
    accuracy: dict[str, float] = {}
    merged_s, size, entries = 0.0, 0, 0
    started = time.perf_counter()
    for place in range(experts + 1):
        merged = next(merges)
        own = setting.tasks[place : place + 1] if place < experts else setting.tasks[experts:]
        if own:
            accuracy |= evaluate_each(setting, f"{label} · {own[0]}", merged.digest, merged.tensors, own)
        digests.append(merged.digest)
        merged_s += merged.elapsed_s
        size = merged.size_bytes
        entries = sum(tensor.numel() for tensor in merged.tensors.values() if tensor.is_floating_point())
    digest = f"xxh3:{xxhash.xxh3_128_hexdigest(' '.join(digests).encode())}"
    kept = size + experts * (-(-entries // 8) + SCALE_BYTES)
    evaluated_s = max(time.perf_counter() - started - merged_s, 0.0)
    return Decoded(digest, kept, merged_s, evaluated_s, accuracy)
