"""What the arithmetic costs by itself: one thread, statistics over 2 M elements, merges of a piece in the caches."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from flows.merge_bench import METHODS, plan_maker
from flows.synthetic import Llama, make_checkpoints
from merge_lib.kernels.calls import CODE_OF
from merge_lib.streaming.calls import Workspace
from merge_lib.streaming.memory_bound import CHUNK
from merge_lib.streaming.operations import Context, prepare
from merge_lib.streaming.planning import MergePlan
from merge_lib.streaming.scanning import Inputs, Scan

_PARAMETERS = 200_000_000  # to which the times are scaled
_SHAPE = Llama(width=1024, layers=1, vocabulary=2048)  # its embedding is sixteen pieces
_TENSOR = "model.embed_tokens.weight"


@dataclass(frozen=True)
class KernelTimes:
    """Seconds of one thread for 200 M parameters of each input.

    Attributes:
        statistics_s: the passes before the merge, reading from the page cache included.
        merge_s: the kernel that merges.
    """

    method: str
    statistics_s: float
    merge_s: float


def measure_kernels(folder: Path, methods: Sequence[str], rounds: int) -> list[KernelTimes]:
    """The best of so many rounds for each method, three experts."""
    base, experts = make_checkpoints(folder, _SHAPE, 3)
    return [_measure(method, plan_maker(method, base, experts)(), rounds) for method in methods or METHODS]


def _measure(method: str, plan: MergePlan, rounds: int) -> KernelTimes:
    work = next(work for work in plan.works if work.name == _TENSOR)
    space = Workspace(len(work.inputs), CHUNK)
    with Inputs((file for source in plan.sources for file in source.files), lambda _read: None) as inputs:
        scan = Scan([work], inputs, [space], None, mask_bytes=work.count * len(plan.experts) // 8)
        context = Context(plan.seed, scan, [0] * len(plan.experts))
        call = prepare(work, context)
        count = CHUNK if call.masks is None else work.count
        space.hold(count)
        out = np.empty(4 * count, np.uint8)
        inputs.read_piece((work, 0, count), space, range(len(work.inputs)))
        statistics, merges = [], []
        for _ in range(rounds):
            started = perf_counter()
            prepare(work, context)
            between = perf_counter()
            space.call(call, work, 0, count, out.ctypes.data, CODE_OF[work.dtype])
            statistics.append(between - started)
            merges.append(perf_counter() - between)
    return KernelTimes(method, min(statistics) * _PARAMETERS / work.count, min(merges) * _PARAMETERS / count)
