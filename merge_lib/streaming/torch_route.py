"""The route of methods and element types without a kernel: the library's torch functions, tensor by tensor."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import torch

from merge_lib import registry
from merge_lib.arithmetic import check_finite, refuse_result
from merge_lib.checkpoints import open_checkpoint
from merge_lib.checkpoints.digest import raw_bytes, tensor_digest
from merge_lib.checkpoints.dtypes import DTYPES
from merge_lib.engine import DigestedCheckpoint
from merge_lib.plan import Job, Plan
from merge_lib.streaming.executing import Progress
from merge_lib.streaming.journal import Journal
from merge_lib.streaming.output import Output
from merge_lib.streaming.planning import MergePlan


def run_in_torch(plan: MergePlan, output: Output, journal: Journal, progress: Progress) -> None:
    """Do everything that the journal does not have yet, on one thread of ours."""
    spec = plan.spec
    with ExitStack() as stack:
        open_one = _opener(stack, spec.base)
        base = None if spec.base is None else open_one(spec.base)
        experts = [open_one(path) for path in spec.experts]
        job = Job(
            registry.get(spec.method),
            spec.params,
            spec.seed,
            tuple(range(len(experts))),
            spec.exclude,
            None if spec.dtype is None else getattr(torch, spec.dtype),
        )
        torch_plan = Plan([job], base, experts)
        torch_plan.gather_statistics()
        for work in plan.works:
            if work.name in journal.finished:
                continue
            merged = torch_plan.result(0, torch_plan.load(work.name))
            output.write(work.name, 0, raw_bytes(merged))
            digests = [source and source.known_digest(work.name) for source in (base, *experts)]
            hashes = [digest and digest.rpartition(" ")[2] for digest in digests]
            journal.finish(work.name, tensor_digest(merged).rpartition(" ")[2], hashes)
            progress(work.read_bytes)


def _opener(stack: ExitStack, base: Path | None) -> Callable[[Path], DigestedCheckpoint]:
    return lambda path: DigestedCheckpoint(stack.enter_context(open_checkpoint(path, base=base)))


def explain_not_finite(plan: MergePlan, name: str) -> NoReturn:
    """Say which checkpoint has a tensor that is not finite, or that the result left the finite numbers."""
    work = next(work for work in plan.works if work.name == name)
    spec = plan.spec
    for path in (spec.base, *spec.experts):
        if path is not None:
            with open_checkpoint(path, base=spec.base) as reader:
                check_finite(name, reader.tensor(name), reader.label)
    refuse_result(name, spec.method, DTYPES[work.dtype])
