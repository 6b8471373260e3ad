"""What the passes before the merging take of memory, beside their pieces."""

from collections.abc import Sequence

from merge_lib.kernels.calls import TILE
from merge_lib.streaming.planning import MergePlan, Work

_COUNTS_BYTES = 16 << 20  # of all rows and threads together, if the fewest bins allow it
_FEWEST_BINS, _MOST_BINS = 1 << 16, 1 << 20
_COUNTING = ("ties", "mergekit.ties", "mergekit.breadcrumbs", "mergekit.sce")


def bins_of(rows: int, threads: int) -> int:
    """Bins of each row of counts, a power of two.

    Args:
        rows: order statistics that are looked for at a time.
        threads: how many count, each into rows of its own.
    """
    room = _COUNTS_BYTES // (4 * rows * max(threads, 2))
    return max(_FEWEST_BINS, min(_MOST_BINS, 1 << max(room.bit_length() - 1, 0)))


def passes_bytes(plans: Sequence[MergePlan], threads: int) -> int:
    """The most that all threads together take for counts and for sums."""
    together = sum(_experts(plan) for plan in plans if plan.threshold_share is not None)
    whole = _counting_bytes(together, threads) if together else 0
    by_tensor = max((_by_tensor_bytes(plan, threads) for plan in plans), default=0)
    sums = max((_sums_bytes(work) for plan in plans for work in plan.works), default=0)
    return max(whole, by_tensor) + sums


def _experts(plan: MergePlan) -> int:
    return max((len(work.inputs) - 1 for work in plan.works), default=1)


def _by_tensor_bytes(plan: MergePlan, threads: int) -> int:
    """All threads count one large tensor, or each a small one."""
    if not plan.method.startswith(_COUNTING) or plan.threshold_share is not None:
        return 0
    most = max(_experts(plan), 1)
    rows = {"mergekit.sce": 1}.get(plan.method, 2 * most if "breadcrumbs" in plan.method else most)
    return max(_counting_bytes(rows, threads), threads * _counting_bytes(rows, 1))


def _counting_bytes(rows: int, threads: int) -> int:
    """Counts of every row and thread, uint32, and one row's stacked, summed and added up."""
    bins = bins_of(rows, threads)
    return 4 * bins * rows * threads + bins * (4 * threads + 16)


def _sums_bytes(work: Work) -> int:
    """Of every tile of a tensor, float64."""
    experts = len(work.inputs) - 1
    columns = 2 * experts if work.params.get("rescale") else 0
    if "slerp" in work.method:
        columns = 3
    elif work.method == "mergekit.model_stock":
        columns = experts * (experts + 1) // 2
    elif work.method == "mergekit.sce":
        columns = experts
    return 8 * columns * -(-work.count // TILE)
