"""The exact k-th largest magnitude, or variance, from counts of the bits; nothing is sorted.

Bits of non-negative floats are ordered like the floats. A sample tells between which bits the k-th lies, and one
pass counts what is above and, by its bits, what is between. Where the sample misled, or there is none, the whole
range is counted coarsely first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from merge_lib.kernels import calls as layout
from merge_lib.kernels.calls import BF16, CODE_OF, NOT_FINITE, ROW_WORDS
from merge_lib.streaming.calls import Call, address_of
from merge_lib.streaming.passes_memory import bins_of
from merge_lib.streaming.scanning import Scan

_BIN_OVERFLOWS = 1 << 32
_SAMPLED_FROM = 1 << 19  # elements; smaller tensors are counted whole
_MARGIN = 0.002  # of the rank, on both sides of what the sample says, as it is not drawn at random


@dataclass(frozen=True)
class Wanted:
    """An order statistic: of an expert's magnitudes, or of the variances.

    Attributes:
        rank: counted from the largest, from 1; 0 where it depends on how many are 0.
        share: of those that are not 0, rounded down, where it does.
    """

    expert: int
    rank: int = 0
    share: float = 0.0

    def rank_among(self, count: int, zeros: int) -> int:
        """The rank, once it is known how many are 0."""
        return self.rank or int(self.share * (count - zeros))


@dataclass(frozen=True)
class Found:
    """Where it lies.

    Attributes:
        bits: of the k-th largest.
        above: how many are larger.
        equal: how many equal it.
        rank: its own; 0 where a share of those that are not 0 is none, and nothing was looked for.
    """

    bits: int
    above: int
    equal: int
    rank: int


@dataclass
class _Range:
    """Bits between which an order statistic is looked for, and what was counted there."""

    low: int
    high: int
    shift: int
    above: int = 0
    zeros: int = 0

    @property
    def bins(self) -> int:
        return 1 + ((self.high - 1 - self.low) >> self.shift)


def find_largest(scan: Scan, places: tuple[int, ...], kind: int, wanted: Sequence[Wanted]) -> list[Found]:
    """The order statistics of all that the scan passes over."""
    experts = [one.expert for one in wanted]
    bins = bins_of(len(wanted), scan.threads)
    is_coarse = all(CODE_OF[work.arithmetic] == BF16 for work in scan.works)
    ranges = [_whole(is_coarse=is_coarse) for _ in wanted]
    if scan.count >= _SAMPLED_FROM and not is_coarse:
        ranges = _guess(scan, places, kind, wanted, bins)
    found: list[Found | None] = [None] * len(wanted)
    while None in found:
        open_ = [i for i, one in enumerate(found) if one is None]
        counts = _count(
            scan, places, kind, [experts[i] for i in open_], [ranges[i] for i in open_], samples=False
        )
        for i, row in zip(open_, counts, strict=True):
            rank = wanted[i].rank_among(scan.count, ranges[i].zeros)
            found[i], ranges[i] = _narrow(ranges[i], row, rank, bins, is_coarse=is_coarse)
    return found  # type: ignore[return-value]


def find_cuts(
    scan: Scan, places: tuple[int, ...], kind: int, wanted: Sequence[tuple[int, int, int]]
) -> list[int]:
    """For each (expert, bits, n) the offset after the n-th entry with those bits, from the start; n is at least 1."""
    rows = [[expert, bits, -1, 0, 0, count, 0] for expert, bits, count in wanted]
    words = np.array([len(rows), kind, *(word for row in rows for word in row)], np.int64)
    found = words[2:].reshape(-1, ROW_WORDS)[:, layout.ROW_HIGH]
    scan.in_order(Call("selection.find_cut", places, words=words), lambda: bool((found >= 0).all()))
    return found.tolist()


def _whole(*, is_coarse: bool) -> _Range:
    """All finite magnitudes; sixteen bits tell bfloat16 magnitudes apart."""
    return _Range(0, NOT_FINITE, 16 if is_coarse else 15)


def _finer(low: int, high: int, bins: int) -> _Range:
    return _Range(low, high, max(0, (high - 1 - low).bit_length() - (bins.bit_length() - 1)))


def _guess(
    scan: Scan, places: tuple[int, ...], kind: int, wanted: Sequence[Wanted], bins: int
) -> list[_Range]:
    """Ranges that hold the order statistics, if a sample is like the whole."""
    ranges = [_whole(is_coarse=False) for _ in wanted]
    counts = _count(scan, places, kind, [one.expert for one in wanted], ranges, samples=True)
    guessed = []
    for one, row in zip(wanted, counts, strict=True):
        total = int(row.sum())
        share = one.rank_among(total, int(row[0])) / total if one.share else one.rank / scan.count
        from_top = np.cumsum(row[::-1])
        margin = _MARGIN + 2 / sqrt(total)  # four standard errors, if the sample were drawn at random
        high = len(row) - 1 - int(np.searchsorted(from_top, max(share - margin, 0) * total))
        low = len(row) - 1 - int(np.searchsorted(from_top, min(share + margin, 1) * total))
        guessed.append(_finer(max(low, 0) << 15, min((high + 1) << 15, NOT_FINITE), bins))
    return guessed


def _count(
    scan: Scan,
    places: tuple[int, ...],
    kind: int,
    experts: Sequence[int],
    ranges: Sequence[_Range],
    *,
    samples: bool,
) -> Iterator[np.ndarray]:
    """One pass: the counts of each range's bins, equal ones once; `above` and `zeros` go to the ranges.

    The counts of the threads are summed when they are asked for, so that one row's sums are held at a time.
    """
    keys = [(expert, one.low, one.high, one.shift) for expert, one in zip(experts, ranges, strict=True)]
    unique = list(dict.fromkeys(keys))
    places_of = [unique.index(key) for key in keys]
    counts = [[np.zeros(_Range(*key[1:]).bins, np.uint32) for key in unique] for _ in range(scan.threads)]
    calls = []
    for own in counts:
        rows = [[*key, address_of(bins), 0, 0] for key, bins in zip(unique, own, strict=True)]
        words = np.array([len(rows), kind, *(word for row in rows for word in row)], np.int64)
        calls.append(Call("selection.histogram", places, words=words))
    scan.run(calls, samples=samples)
    for place, one in zip(places_of, ranges, strict=True):
        told = [call.words[2:].reshape(-1, ROW_WORDS)[place] for call in calls]
        one.above = sum(int(row[layout.ROW_ABOVE]) for row in told)
        one.zeros = sum(int(row[layout.ROW_ZEROS]) for row in told)
    return (_added([own[place] for own in counts], calls, place) for place in places_of)


def _added(counts: Sequence[np.ndarray], calls: Sequence[Call], place: int) -> np.ndarray:
    """The counts of all threads, int64; the zeros of a large model may be more than the first bin's 32 bits hold."""
    total = np.sum(counts, axis=0, dtype=np.int64)
    rows = [call.words[2:].reshape(-1, ROW_WORDS)[place] for call in calls]
    if rows[0][layout.ROW_LOW] == 0:
        zeros = [int(row[layout.ROW_ZEROS]) for row in rows]
        total[0] = sum(
            (int(own[0]) - zero) % _BIN_OVERFLOWS + zero for own, zero in zip(counts, zeros, strict=True)
        )
    return total


def _narrow(
    counted: _Range, row: np.ndarray, rank: int, bins: int, *, is_coarse: bool
) -> tuple[Found | None, _Range]:
    """The answer, or the bin that holds it; the whole range where the one that was counted does not."""
    if rank == 0:
        return Found(NOT_FINITE, 0, 0, 0), counted
    left = rank - counted.above
    from_top = np.cumsum(row[::-1])
    if left < 1 or left > from_top[-1]:
        return None, _whole(is_coarse=is_coarse)
    place = int(np.searchsorted(from_top, left))
    bin_ = len(row) - 1 - place
    low = counted.low + (bin_ << counted.shift)
    above = counted.above + int(from_top[place] - row[bin_])
    if counted.shift == 0 or is_coarse:
        return Found(low, above, int(row[bin_]), rank), counted
    return None, _finer(low, min(low + (1 << counted.shift), counted.high), bins)
