"""How large the pieces may be so that the process stays within its memory."""

import os
from dataclasses import dataclass

from merge_lib.errors import SpecError
from merge_lib.kernels.calls import SPARE_ROWS, TILE
from merge_lib.streaming.planning import ROW_PIECE, MergePlan, Work

CHUNK = 128 * 1024  # elements: the inputs of a piece stay in the second cache
DEVICE_CHUNK = 1 << 20  # elements of a piece for a device: MBs a copy, yet many pieces of a large tensor
DEVICE_SETS = 2  # of buffers for pieces on their way
_MASK_BYTES = 256 << 20  # of all threads
_SMALLEST_CHUNK = 4096
_SCRATCH_BYTES = 4096  # of a thread, for each input
_COUNTS_BYTES = 16 << 20  # of all rows and threads together, if the fewest bins allow it
_FEWEST_BINS, _MOST_BINS = 1 << 16, 1 << 20
# measured on Python 3.11 with `mergeline bench memory`
_RESERVE = 16 << 20  # machine code, stacks and the allocator's gaps, which come after the start
_RESERVE_OF_HEADER = 800  # digests, journal and manifest, for each input of each tensor
_DEVICE_RESERVE = 32 << 20  # what a device's runtime takes of the process while running, a guess
_KERNELS_RSS = 94 << 20  # Python, numpy, llvmlite and the command line
_RSS_OF_HEADER = 500  # the plan, for each input of each tensor
_TORCH_RSS = 290 << 20  # Python, torch and the command line
_TEMPORARIES = 5  # of the torch route, each of the size of a tensor of all inputs in float32
_TEMPORARIES_OF = {"mergekit.karcher": 10}
_COUNTING = ("ties", "mergekit.ties", "mergekit.breadcrumbs", "mergekit.sce")


@dataclass(frozen=True)
class Bound:
    """What one run may use.

    Attributes:
        chunk: elements of a piece.
        buffer_bytes: of all threads together.
        process_bytes: the estimated resident size at the peak.
        mask_bytes: what a tensor's masks may take between two passes; they are made twice where it is too little.
        device_chunk: elements of a piece that goes to a device; 0 where there is none.
    """

    threads: int
    chunk: int
    buffer_bytes: int
    process_bytes: int
    mask_bytes: int = 0
    device_chunk: int = 0

    @property
    def piece(self) -> int:
        """Elements that are merged together."""
        return self.device_chunk or self.chunk


def bound_memory(
    plan: MergePlan, threads: int, memory_bytes: int | None, resident: int | None = None
) -> Bound:
    """Choose the piece's size.

    Args:
        plan: the merge.
        threads: how many work at once.
        memory_bytes: the bound on the process; None uses pieces of the best size.
        resident: what the process takes already; None takes the measured figure for a fresh one.

    Raises:
        SpecError: the merge does not fit.
    """
    if not plan.is_compiled:
        return _bound_torch(plan, memory_bytes)
    if plan.device is not None:
        return _bound_device(plan, threads, memory_bytes, resident or resident_bytes())
    start = _start_bytes(plan, threads, resident)
    row_bytes = (len(plan.experts) + 2) * 4  # base, experts and result, at most float32
    fixed = _fixed_bytes(plan)
    chunk = CHUNK
    if memory_bytes is not None:
        room = (memory_bytes - start) // threads - fixed
        chunk = min(CHUNK, max(room, 0) // row_bytes // 1024 * 1024)
        if chunk < _SMALLEST_CHUNK:
            needed = start + threads * (fixed + row_bytes * _SMALLEST_CHUNK)
            raise SpecError(_too_small(memory_bytes, needed, "Use fewer threads or give it more."))
    buffers = threads * (fixed + row_bytes * chunk)
    masks = _mask_bytes(plan, memory_bytes)
    return Bound(threads, chunk, buffers, start + buffers + masks, masks // threads)


def _bound_device(plan: MergePlan, threads: int, memory_bytes: int | None, resident: int) -> Bound:
    """With the pinned buffers, two sets a thread, beside those for statistics."""
    row_bytes = (len(plan.experts) + 2) * 4
    largest = max((work.count for work in plan.works), default=1)
    most = min(DEVICE_CHUNK, max(-(-largest // TILE), 1) * TILE)
    least = min(_SMALLEST_CHUNK, most)
    fixed = (DEVICE_SETS + 1) * _fixed_bytes(plan)  # masks are made in the sets
    start = _start_bytes(plan, threads, resident) + _DEVICE_RESERVE
    room = None if memory_bytes is None else (memory_bytes - start) // threads - fixed
    # a third of it for statistics, as far as they have a use for it
    chunk = CHUNK if room is None else min(CHUNK, max(room, 0) // (3 * row_bytes) // TILE * TILE)
    left = most if room is None else (room // row_bytes - chunk) // DEVICE_SETS // TILE * TILE
    device_chunk = min(most, left)
    if memory_bytes is not None and (chunk < _SMALLEST_CHUNK or device_chunk < least):
        needed = start + threads * (fixed + row_bytes * (_SMALLEST_CHUNK + DEVICE_SETS * _SMALLEST_CHUNK))
        raise SpecError(_too_small(memory_bytes, needed, "Use fewer threads or give it more."))
    buffers = threads * (fixed + row_bytes * (chunk + DEVICE_SETS * device_chunk))
    masks = _mask_bytes(plan, memory_bytes)
    return Bound(threads, chunk, buffers, start + buffers + masks, masks // threads, device_chunk)


def _mask_bytes(plan: MergePlan, memory_bytes: int | None) -> int:
    return _MASK_BYTES if plan.method.startswith("mergekit.della") and memory_bytes is None else 0


def _start_bytes(plan: MergePlan, threads: int, resident: int | None) -> int:
    """All but the pieces: the process as it is, what it will take beside them, and what all threads share."""
    headers = sum(len(work.inputs) for work in plan.works)
    before = resident or _KERNELS_RSS + _RSS_OF_HEADER * headers
    return before + _RESERVE + _RESERVE_OF_HEADER * headers + _shared_bytes(plan, threads)


def bins_of(rows: int, threads: int) -> int:
    """Bins of each row of counts, a power of two.

    Args:
        rows: order statistics that are looked for at a time.
        threads: how many count, each into rows of its own.
    """
    room = _COUNTS_BYTES // (4 * rows * max(threads, 2))
    return max(_FEWEST_BINS, min(_MOST_BINS, 1 << max(room.bit_length() - 1, 0)))


def _counting_bytes(rows: int, threads: int) -> int:
    """Counts of every row and thread, uint32, and one row's stacked, summed and added up."""
    bins = bins_of(rows, threads)
    return 4 * bins * rows * threads + bins * (4 * threads + 16)


def _shared_bytes(plan: MergePlan, threads: int) -> int:
    """What passes before the merging take of all threads together, beside their pieces."""
    most = max((len(work.inputs) - 1 for work in plan.works), default=1)
    if plan.method.startswith(_COUNTING):
        rows = {"mergekit.sce": 1}.get(plan.method, 2 * most if "breadcrumbs" in plan.method else most)
        counts = max(_counting_bytes(rows, threads), threads * _counting_bytes(rows, 1))
    else:
        counts = 0
    sums = max((work.count * _columns(work) * 8 // TILE for work in plan.works), default=0)
    return counts + sums


def _columns(work: Work) -> int:
    """Sums that a pass over a tensor takes of each tile, float64."""
    experts = len(work.inputs) - 1
    if "slerp" in work.method:
        return 3
    if work.method == "mergekit.model_stock":
        return experts * (experts + 1) // 2
    if work.method == "mergekit.sce":
        return experts
    return 2 * experts if work.params.get("rescale") else 0


def _fixed_bytes(plan: MergePlan) -> int:
    """What a thread takes whatever the size of its pieces."""
    most = max((len(work.inputs) for work in plan.works), default=1)
    scratch = _SCRATCH_BYTES * (most + SPARE_ROWS)
    if not plan.method.startswith("mergekit.della"):
        return scratch
    rows = max((work.shape[-1] for work in plan.works if work.shape), default=1)
    return scratch + max(ROW_PIECE, rows) * (5 * most + 12)


def _bound_torch(plan: MergePlan, memory_bytes: int | None) -> Bound:
    """Whole tensors: as stored, and what is made of them."""
    largest = max((work.read_bytes for work in plan.works), default=0)
    wide = max((4 * (work.read_bytes // max(1, _itemsize(work))) for work in plan.works), default=0)
    temporaries = max((_TEMPORARIES_OF.get(work.method, _TEMPORARIES) for work in plan.works), default=0)
    needed = _TORCH_RSS + largest + temporaries * wide
    if memory_bytes is not None and needed > memory_bytes:
        remedy = f"This route works on whole tensors ({plan.why_torch}). Give it more."
        raise SpecError(_too_small(memory_bytes, needed, remedy))
    return Bound(1, 0, needed - _TORCH_RSS, needed)


def _itemsize(work: object) -> int:
    sizes = [h.size_bytes // max(1, h.count) for h in work.inputs if h is not None and h.count]  # type: ignore[attr-defined]
    return min(sizes, default=1) or 1


def _too_small(got: int, needed: int, remedy: str) -> str:
    return f"The merge is to stay within {got >> 20} MiB, but needs about {-(-needed // (1 << 20))} MiB. {remedy}"


def resident_bytes() -> int:
    """The resident size of this process."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 -- not a file on a disk
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
