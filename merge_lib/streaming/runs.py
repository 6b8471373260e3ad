"""Merges that are under way, and the making of all their tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from merge_lib.errors import MergeError
from merge_lib.streaming.journal import Notes
from merge_lib.streaming.memory_bound import Bound
from merge_lib.streaming.output import Sink
from merge_lib.streaming.planning import MergePlan, Work
from merge_lib.streaming.provenance import known_by_key


@dataclass(eq=False)
class Run:
    """One merge of those that are made together.

    Attributes:
        thresholds: of the whole model, once they are known.
        elapsed_s: seconds of the passes over tensors that no other run has a use for; of all threads together.
        alone_s: seconds in which no other run was under way.
    """

    plan: MergePlan
    output: Sink
    journal: Notes
    thresholds: Sequence[int] | None = None
    elapsed_s: float = 0.0
    alone_s: float = 0.0

    @property
    def left(self) -> list[Work]:
        """What the journal does not have yet."""
        return [work for work in self.plan.works if work.name not in self.journal.finished]


def make_tensors(runs: Sequence[Run], bound: Bound, progress: Any) -> dict[Run, MergeError]:
    """Make all tensors: with kernels from one reading, in torch one merge after another.

    Args:
        runs: what to make; what their journals have is left as it is.
        bound: threads and memory.
        progress: told the bytes that were read since the last call.

    Returns:
        Why a merge cannot be made, of those for which that is so; the others are made all the same.
    """
    refused = _make_in_kernels([run for run in runs if run.plan.is_compiled], bound, progress)
    in_torch = [run for run in runs if not run.plan.is_compiled]
    for run, own in zip(in_torch, bound.in_torch, strict=True):
        from merge_lib.streaming.torch_route import run_in_torch

        started = perf_counter()
        try:
            run_in_torch(run.plan, run.output, run.journal, own, progress)
        except MergeError as exc:
            refused[run] = exc
        run.alone_s += perf_counter() - started
    return refused


def _make_in_kernels(runs: Sequence[Run], bound: Bound, progress: Any) -> dict[Run, MergeError]:
    """Together; without one that meets a value that is not finite; one by one if it cannot be told which refuses."""
    refused: dict[Run, MergeError] = {}
    if not runs:
        return refused
    from merge_lib.streaming.scanning import NotFiniteError

    waiting = list(runs)
    while waiting:
        try:
            _execute(waiting, bound, progress)
            break
        except NotFiniteError as exc:
            run = next((run for run in waiting if run.plan is exc.plan), waiting[0])
            refused[run] = _explained(run.plan, exc.name)
            waiting.remove(run)
        except MergeError as exc:
            if len(waiting) == 1:
                return {**refused, waiting[0]: exc}
            for run in waiting:
                refused |= _make_in_kernels([run], bound, progress)
            break
    return refused


def _execute(runs: Sequence[Run], bound: Bound, progress: Any) -> None:
    from merge_lib.streaming.executing import Executor
    from merge_lib.streaming.scanning import Inputs

    sources = [source for run in runs for source in run.plan.sources]
    with Inputs((file for source in sources for file in source.files), progress) as inputs:
        Executor(runs, bound, inputs, known_by_key(sources)).run()


def _explained(plan: MergePlan, name: str) -> MergeError:
    """Which tensor of which checkpoint is not finite, in words."""
    from merge_lib.streaming.torch_route import explain_not_finite

    try:
        explain_not_finite(plan, name)
    except MergeError as exc:
        return exc
