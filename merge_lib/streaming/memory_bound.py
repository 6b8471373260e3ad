"""How large the pieces may be so that the process stays within its memory."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from merge_lib.errors import SpecError
from merge_lib.kernels.calls import SPARE_ROWS, TILE
from merge_lib.streaming.passes_memory import passes_bytes
from merge_lib.streaming.planning import ROW_PIECE, MergePlan
from merge_lib.streaming.sharing import count_rows
from merge_lib.streaming.torch_memory import TorchBound, bound_torch, too_small

CHUNK = 128 * 1024  # elements: the inputs of a piece stay in the second cache
DEVICE_CHUNK = 1 << 20  # elements of a piece for a device: MBs a copy, yet many pieces of a large tensor
DEVICE_SETS = 2  # of buffers for pieces on their way
_MASK_BYTES = 64 << 20  # of all threads, as bits
_SMALLEST_CHUNK = 4096
_SCRATCH_BYTES = 4096  # of a thread, for each input
# measured on Python 3.11 with `mergeline bench memory`
_RESERVE = 16 << 20  # machine code, stacks and the allocator's gaps, which come after the start
_RESERVE_OF_HEADER = 800  # digests, journal and manifest, for each input of each tensor
_DEVICE_RESERVE = 32 << 20  # what a device's runtime takes of the process while running, a guess
_KERNELS_RSS = 58 << 20  # Python, numpy and the command line with its progress bar
_RSS_OF_HEADER = 500  # the plan, for each input of each tensor


@dataclass(frozen=True)
class Bound:
    """What one run may use.

    Attributes:
        chunk: elements of a piece.
        buffer_bytes: of all threads together.
        process_bytes: the estimated resident size at the peak.
        mask_bytes: what a tensor's masks may take between two passes; they are made twice where it is too little.
        device_chunk: elements of a piece that goes to a device; 0 where there is none.
        in_torch: for each merge without kernels what it may use.
    """

    threads: int
    chunk: int
    buffer_bytes: int
    process_bytes: int
    mask_bytes: int = 0
    device_chunk: int = 0
    in_torch: tuple[TorchBound, ...] = ()

    @property
    def piece(self) -> int:
        """Elements that are merged together."""
        return self.device_chunk or self.chunk


def bound_memory(
    plans: Sequence[MergePlan], threads: int, memory_bytes: int | None, resident: int | None = None
) -> Bound:
    """Choose the piece's size.

    Args:
        plans: the merges that are made together; those with kernels first, then those in torch one by one.
        threads: how many work at once.
        memory_bytes: the bound on the process; None uses pieces of the best size.
        resident: what the process takes already; None takes the measured figure for a fresh one.

    Raises:
        SpecError: the merges do not fit.
    """
    compiled = [plan for plan in plans if plan.is_compiled]
    in_torch = tuple(
        bound_torch(plan, threads, memory_bytes, resident) for plan in plans if not plan.is_compiled
    )
    bound = Bound(threads, 0, 0, 0)
    if compiled and compiled[0].device is not None:
        bound = _bound_device(compiled, threads, memory_bytes, resident or resident_bytes())
    elif compiled:
        bound = _bound_kernels(compiled, threads, memory_bytes, resident)
    most = max([bound.process_bytes, *(one.process_bytes for one in in_torch)])
    return replace(bound, process_bytes=most, in_torch=in_torch)


def _bound_kernels(
    plans: Sequence[MergePlan], threads: int, memory_bytes: int | None, resident: int | None
) -> Bound:
    """Pieces of all inputs and results of a reading, for each thread."""
    start = _start_bytes(plans, threads, resident)
    rows = count_rows([plan.works for plan in plans])
    row_bytes = sum(rows) * 4  # at most float32
    fixed = max(_fixed_bytes(plan, rows) for plan in plans)
    chunk = CHUNK
    if memory_bytes is not None:
        room = (memory_bytes - start) // threads - fixed
        chunk = min(CHUNK, max(room, 0) // row_bytes // 1024 * 1024)
        if chunk < _SMALLEST_CHUNK:
            needed = start + threads * (fixed + row_bytes * _SMALLEST_CHUNK)
            raise SpecError(too_small(memory_bytes, needed, _remedy(plans)))
    buffers = threads * (fixed + row_bytes * chunk)
    masks, each = _mask_bytes(plans, threads, memory_bytes)
    return Bound(threads, chunk, buffers, start + buffers + masks, each)


def _bound_device(plans: Sequence[MergePlan], threads: int, memory_bytes: int | None, resident: int) -> Bound:
    """With the pinned buffers, two sets a thread, beside those for statistics."""
    rows = count_rows([plan.works for plan in plans])
    row_bytes = sum(rows) * 4
    largest = max((work.count for plan in plans for work in plan.works), default=1)
    most = min(DEVICE_CHUNK, max(-(-largest // TILE), 1) * TILE)
    least = min(_SMALLEST_CHUNK, most)
    # masks are made in the sets
    fixed = (DEVICE_SETS + 1) * max(_fixed_bytes(plan, rows) for plan in plans)
    start = _start_bytes(plans, threads, resident) + _DEVICE_RESERVE
    room = None if memory_bytes is None else (memory_bytes - start) // threads - fixed
    # a third of it for statistics, as far as they have a use for it
    chunk = CHUNK if room is None else min(CHUNK, max(room, 0) // (3 * row_bytes) // TILE * TILE)
    left = most if room is None else (room // row_bytes - chunk) // DEVICE_SETS // TILE * TILE
    device_chunk = min(most, left)
    if memory_bytes is not None and (chunk < _SMALLEST_CHUNK or device_chunk < least):
        needed = start + threads * (fixed + row_bytes * (_SMALLEST_CHUNK + DEVICE_SETS * _SMALLEST_CHUNK))
        raise SpecError(too_small(memory_bytes, needed, _remedy(plans)))
    buffers = threads * (fixed + row_bytes * (chunk + DEVICE_SETS * device_chunk))
    masks, each = _mask_bytes(plans, threads, memory_bytes)
    return Bound(threads, chunk, buffers, start + buffers + masks, each, device_chunk)


def _mask_bytes(plans: Sequence[MergePlan], threads: int, memory_bytes: int | None) -> tuple[int, int]:
    """For all masks, and for those that one merge keeps of a tensor."""
    kept = (
        "mergekit.della" if plans[0].device else ("mergekit.della", "mergekit.dare")
    )  # devices draw DARE's anew
    masked = sum(plan.method.startswith(kept) for plan in plans)
    if not masked or memory_bytes is not None:
        return 0, 0
    return _MASK_BYTES, _MASK_BYTES // (threads * masked)


def _remedy(plans: Sequence[MergePlan]) -> str:
    fewer = "Use fewer threads, merge fewer together," if len(plans) > 1 else "Use fewer threads"
    return f"{fewer} or give it more."


def _start_bytes(plans: Sequence[MergePlan], threads: int, resident: int | None) -> int:
    """All but the pieces: the process as it is, what it will take beside them, and what all threads share."""
    headers = sum(len(work.inputs) for plan in plans for work in plan.works)
    before = resident or _KERNELS_RSS + _RSS_OF_HEADER * headers
    scratch = threads * _SCRATCH_BYTES * (count_rows([plan.works for plan in plans])[0] + SPARE_ROWS)
    return before + _RESERVE + _RESERVE_OF_HEADER * headers + scratch + passes_bytes(plans, threads)


def _fixed_bytes(plan: MergePlan, rows: tuple[int, int]) -> int:
    """What a thread takes whatever the size of its pieces."""
    if not plan.method.startswith("mergekit.della"):
        return 0
    most = max((len(work.inputs) for work in plan.works), default=1)
    longest = max((work.shape[-1] for work in plan.works if work.shape), default=1)
    return max(ROW_PIECE, longest) * (4 * sum(rows) + most + 12)


def usable_threads(asked: int | None) -> int:
    """So many as were asked for, or as the cores that this process may use."""
    return asked or len(os.sched_getaffinity(0))


def resident_bytes() -> int:
    """The resident size of this process."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 -- not a file on a disk
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
