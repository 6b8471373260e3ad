"""How much the torch route may take at a time."""

from dataclasses import dataclass

from merge_lib import registry
from merge_lib.errors import SpecError
from merge_lib.streaming.cutting import Cutting
from merge_lib.streaming.planning import MergePlan

# measured on Python 3.11
TORCH_RSS = 300 << 20  # Python, torch with its libraries for matrices, and the command line
_RESERVE = 24 << 20  # stacks, the allocator's gaps, and what is loaded on first use
_RESERVE_OF_HEADER = 1300  # plan, digests, journal and manifest, for each input of each tensor
_COUNTS_BYTES = 3 << 19  # statistics of an expert: counts of sixteen bits, three of them
_STATES_BYTES = 1 << 26  # of a continual method; more of them lie in a file


@dataclass(frozen=True)
class TorchBound:
    """What one merge on the torch route may use.

    Attributes:
        room_bytes: that pieces may take together; None for as much as comes.
        elements: of a piece, about.
        process_bytes: the estimated resident size at the peak.
    """

    threads: int
    room_bytes: int | None
    elements: int
    process_bytes: int


def bound_torch(
    plan: MergePlan, threads: int, memory_bytes: int | None, resident: int | None = None
) -> TorchBound:
    """Choose the size of pieces, and fewer threads where they are not small enough.

    Whole tensors wait for one another where they do not fit together.

    Args:
        plan: a merge without kernels.
        threads: how many work at once.
        memory_bytes: the bound on the process; None uses pieces of the best size.
        resident: what the process takes already.

    Raises:
        SpecError: not even one thread fits with the smallest pieces.
    """
    cutting = Cutting.of(plan)
    if memory_bytes is None:
        needed = _start_bytes(plan, threads, resident) + cutting.together(threads)
        return TorchBound(threads, None, cutting.elements, needed)
    for count in range(threads, 0, -1):
        start = _start_bytes(plan, count, resident)
        room = memory_bytes - start
        while cutting.together(count) > room and (smaller := cutting.smaller) is not None:
            cutting = smaller
        if cutting.largest_need() <= room:
            needed = start + min(room, cutting.together(count))
            return TorchBound(count, room, cutting.elements, needed)
    raise SpecError(too_small(memory_bytes, start + cutting.largest_need(), _remedy(cutting)))


def _start_bytes(plan: MergePlan, threads: int, resident: int | None) -> int:
    """All but the pieces."""
    headers = sum(len(work.inputs) for work in plan.works)
    before = max(resident or 0, TORCH_RSS)
    return before + _RESERVE + _RESERVE_OF_HEADER * headers + plan.fitted_bytes + _kept_bytes(plan, threads)


def _kept_bytes(plan: MergePlan, threads: int) -> int:
    """Statistics of each thread, and one more while it folds; or a continual method's states."""
    if plan.variant or (info := registry.get(plan.method)).scope == "tensor":
        return 0
    if info.kind == "continual":
        return 2 * min(_STATES_BYTES, 3 * 4 * sum(work.count for work in plan.works))
    return _COUNTS_BYTES * len(plan.experts) * (2 * threads + 2)


def _remedy(cutting: Cutting) -> str:
    what = {"entry": "pieces", "row": "whole rows", "tensor": "whole tensors"}[cutting.works_on]
    return f"This route works on {what} of all experts ({cutting.plan.why_torch}). Give it more."


def too_small(got: int, needed: int, remedy: str) -> str:
    """Says that a bound cannot be kept, and with how much it could be."""
    return f"The merge is to stay within {got >> 20} MiB, but needs about {-(-needed // (1 << 20))} MiB. {remedy}"
