"""Several merges from one reading, as state dicts that nobody wrote."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter

import torch
from torch import Tensor

from merge_lib.checkpoints.dtypes import DTYPES
from merge_lib.spec import MergeSpec
from merge_lib.streaming.journal import Notes
from merge_lib.streaming.memory_bound import usable_threads
from merge_lib.streaming.planning import MergePlan, gather, make_plan
from merge_lib.streaming.runs import Run
from merge_lib.streaming.together import checked_digests, make_or_refuse, output_digest, shares


@dataclass(frozen=True)
class MergedInMemory:
    """A merge that lies in memory.

    Attributes:
        digest: as a file with these tensors would have it.
        tensors: by name, in memory of their own.
        elapsed_s: its own work, and its share of reading.
    """

    digest: str
    tensors: dict[str, Tensor]
    elapsed_s: float

    @property
    def size_bytes(self) -> int:
        """Of all tensors; a file would have a header more."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def merge_many_in_memory(
    specs: Sequence[MergeSpec],
    *,
    threads: int | None = None,
    progress: Callable[[int], None] = lambda _read: None,
) -> list[MergedInMemory]:
    """Make several merges from one reading of their inputs, without writing them.

    All results are in memory at once: `merge_in_turn` makes as many at a time as there is room for.

    Args:
        specs: what to merge and how; they may differ in everything.
        threads: of the kernels; None uses the cores that this process may use.
        progress: told the bytes that were read since the last call.

    Returns:
        State dicts with their digests, in the order of the specs; the same bytes as `merge_checkpoints` writes.

    Raises:
        CheckpointError, MethodInputError: as `merge_checkpoints`; of all merges that cannot be made.
    """
    return _make(gather([partial(make_plan, spec) for spec in specs]), threads, progress)


def merge_in_turn(
    specs: Sequence[MergeSpec], *, memory_bytes: int, threads: int | None = None
) -> Iterator[MergedInMemory]:
    """Make several merges and give away one after another, each forgotten here once it is given.

    Args:
        specs: what to merge and how; they may differ in everything.
        memory_bytes: that results may take at once. As many as fit are made from one reading, at least one; it
            changes no byte of them.
        threads: of the kernels; None uses the cores that this process may use.

    Yields:
        What `merge_many_in_memory` returns, in the order of the specs.

    Raises:
        CheckpointError, MethodInputError: as `merge_many_in_memory`; what headers tell, before the first is made.
    """
    for plans in _batches(gather([partial(make_plan, spec) for spec in specs]), memory_bytes):
        waiting = _make(plans, threads)[::-1]
        while waiting:
            yield waiting.pop()


def _batches(plans: Sequence[MergePlan], memory_bytes: int) -> Iterator[list[MergePlan]]:
    """The plans in order, together as long as their results fit."""
    batch: list[MergePlan] = []
    left = memory_bytes
    for plan in plans:
        size = sum(work.size_bytes for work in plan.works)
        if batch and size > left:
            yield batch
            batch, left = [], memory_bytes
        batch.append(plan)
        left -= size
    if batch:
        yield batch


def _make(
    plans: Sequence[MergePlan], threads: int | None, progress: Callable[[int], None] = lambda _read: None
) -> list[MergedInMemory]:
    started = perf_counter()
    held = [_Held.of(plan) for plan in plans]
    runs = [Run(plan, sink, Notes()) for plan, sink in zip(plans, held, strict=True)]
    make_or_refuse(runs, threads, progress)
    checked_digests(runs)
    elapsed = shares(runs, perf_counter() - started, usable_threads(threads))
    return [
        MergedInMemory(output_digest(run), sink.tensors(), seconds)
        for run, sink, seconds in zip(runs, held, elapsed, strict=True)
    ]


@dataclass(frozen=True)
class _Held:
    """A result's bytes in memory."""

    plan: MergePlan
    buffers: dict[str, bytearray] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: MergePlan) -> "_Held":
        return cls(plan, {work.name: bytearray(work.size_bytes) for work in plan.works})

    def write(self, name: str, start: int, data: memoryview) -> None:
        """Put bytes at a place of a tensor."""
        memoryview(self.buffers[name])[start : start + len(data)] = data

    def tensors(self) -> dict[str, Tensor]:
        """By sorted name, on the same memory."""
        return {
            work.name: torch.frombuffer(self.buffers[work.name], dtype=DTYPES[work.dtype]).reshape(work.shape)
            if work.count
            else torch.empty(work.shape, dtype=DTYPES[work.dtype])
            for work in sorted(self.plan.works, key=lambda work: work.name)
        }
