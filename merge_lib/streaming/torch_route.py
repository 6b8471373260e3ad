"""The route of methods and element types without a kernel: torch functions, tensor by tensor."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from merge_lib import registry
from merge_lib.arithmetic import check_finite, refuse_result
from merge_lib.calibration.store import open_learned
from merge_lib.checkpoints import open_checkpoint
from merge_lib.checkpoints.digest import raw_bytes, tensor_digest
from merge_lib.checkpoints.dtypes import DTYPES
from merge_lib.engine import DigestedCheckpoint
from merge_lib.files.folders import Source
from merge_lib.plan import Job, Plan
from merge_lib.spec import MergeSpec
from merge_lib.streaming.journal import Journal
from merge_lib.streaming.output import Output
from merge_lib.streaming.planning import MergePlan, Work
from merge_lib.streaming.scanning import Progress


def run_in_torch(plan: MergePlan, output: Output, journal: Journal, progress: Progress) -> None:
    """Do everything that the journal does not have yet, on one thread of ours."""
    left = [work for work in plan.works if work.name not in journal.finished]
    results = plan.reference().merge(plan, left) if left else ()
    for work, (merged, hashes) in zip(left, results, strict=True):
        output.write(work.name, 0, raw_bytes(merged))
        journal.finish(work.name, bare_digest(tensor_digest(merged)), hashes)
        progress(work.read_bytes)


def explain_not_finite(plan: MergePlan, name: str) -> NoReturn:
    """Say which checkpoint has a tensor that is not finite, or that the result left the finite numbers."""
    plan.reference().refuse(plan, next(work for work in plan.works if work.name == name))


@contextmanager
def opened(sources: Sequence[Source]) -> Iterator[tuple[DigestedCheckpoint, ...]]:
    """The checkpoints, open, each with the digests of what was read."""
    with ExitStack() as stack:
        yield tuple(
            DigestedCheckpoint(stack.enter_context(open_checkpoint(source.path, base=source.base)))
            for source in sources
        )


def bare_digest(digest: str) -> str:
    """The hash alone, without dtype and shape."""
    return digest.rpartition(" ")[2]


@dataclass(frozen=True)
class OwnReference:
    """The registered methods, through the same code as `merge_checkpoints`."""

    spec: MergeSpec

    def merge(self, plan: MergePlan, works: Sequence[Work]) -> Iterator[tuple[Tensor, list[str | None]]]:
        """Each result with the hash of each of its inputs."""
        with opened(plan.sources) as readers:
            base, experts = (None, readers) if plan.base is None else (readers[0], readers[1:])
            torch_plan = Plan([self._job(len(experts))], base, experts)
            torch_plan.gather_statistics()
            for work in works:
                merged = torch_plan.result(0, torch_plan.load(work.name))
                digests = [one and one.known_digest(work.name) for one in (base, *experts)]
                yield merged, [digest and bare_digest(digest) for digest in digests]

    def refuse(self, plan: MergePlan, work: Work) -> NoReturn:
        """Say which input is not finite, or that the result is not."""
        for source in plan.sources:
            with opened([source]) as (reader,):
                check_finite(work.name, reader.tensor(work.name), reader.label)
        refuse_result(work.name, work.method, DTYPES[work.dtype])

    def _job(self, experts: int) -> Job:
        spec = self.spec
        dtype = None if spec.dtype is None else getattr(torch, spec.dtype)
        info = registry.get(spec.method)
        return Job(
            info,
            spec.params,
            spec.seed,
            tuple(range(experts)),
            spec.exclude,
            dtype,
            learned=open_learned(spec.method, spec.observations, spec.fitted),
            layer_scales=spec.layer_scales,
            equalise=spec.equalise,
        )
