"""DELLA's masks: kept with a probability that grows with the rank of a magnitude in its row.

A rank is needed exactly only where it decides. Each row is counted into buckets by the upper bits of its
magnitudes; a bucket's first and last rank bound the probability of its entries, and few draws fall between.
"""

import numpy as np
from numba import carray

from merge_lib.kernels import calls
from merge_lib.kernels.calls import (
    CODES,
    COUNT,
    EXPERTS,
    FIRST,
    INPUTS,
    NUMBERS,
    OUT,
    PITCH,
    ROUNDING,
    SCRATCH,
    TILE,
    WORDS,
)  # fmt: skip
from merge_lib.kernels.chance import draw
from merge_lib.kernels.settling import task_vector
from merge_lib.kernels.tiles import magnitude_bits, pointer, tile, widen_base

_BUCKETS, _SHIFT = 512, 17
_MARGIN = np.float32(0.125)  # of a limit that is computed in float32, in units of the upper half of draws


@tile
def _limit(rank, last, density, epsilon):
    """The draws below this are kept: the probability of a rank in units of 2⁻³²."""
    share = np.float64(rank) / last if last > 0 else 0.5
    return np.int64(np.ceil((density + epsilon * (2 * share - 1)) * 4294967296.0))


@tile
def _rank(sizes, place):
    """How many of the row come before this entry: smaller ones, and equal ones before it."""
    own = sizes[place]
    rank = np.uint32(0)
    before, after = sizes[:place], sizes[place + 1 :]
    for i in range(len(before)):
        rank = np.uint32(rank + (np.uint32(1) if before[i] <= own else np.uint32(0)))
    for i in range(len(after)):
        rank = np.uint32(rank + (np.uint32(1) if after[i] < own else np.uint32(0)))
    return np.int64(rank)


@tile
def _fill_buckets(sizes, buckets, counts):
    """Each entry's bucket, by the upper bits below those of the row's largest, and how many are in each."""
    length = len(sizes)
    worst = np.uint32(0)
    for i in range(length):
        worst = sizes[i] if sizes[i] > worst else worst
    top = np.int32(worst >> np.uint32(_SHIFT)) - np.int32(_BUCKETS - 1)
    for i in range(length):
        bucket = np.int32(np.int32(sizes[i] >> np.uint32(_SHIFT)) - top)
        buckets[i] = np.uint16(bucket if bucket > 0 else np.int32(0))
    counts[:] = 0
    for i in range(length):
        counts[np.uint64(buckets[i])] += np.int32(1)


@tile
def _fill_limits(length, density, epsilon, counts, lows, widths):
    """For each bucket the upper half of draws below which all its entries are kept, and how many are in doubt."""
    step = np.float32(2 * epsilon / max(length - 1, 1) * 65536.0)
    least = np.float32((density - epsilon if length > 1 else density) * 65536.0)
    before = np.int32(0)
    for bucket in range(_BUCKETS):
        held = counts[bucket]
        counts[bucket] = before
        before += held
    counts[_BUCKETS] = before
    for bucket in range(_BUCKETS):
        low = least + step * np.float32(counts[bucket]) - _MARGIN
        high = least + step * np.float32(counts[bucket + 1] - np.int32(1)) + _MARGIN
        lows[bucket] = np.int32(min(max(low, np.float32(0)), np.float32(65536)))
        widths[bucket] = np.int32(min(max(high, np.float32(0)), np.float32(65536))) - lows[bucket]


@tile
def _mask_by_draw(draws, least, most, mask, left):
    """Entries that any rank would keep, or drop; the places of the others go to `left`. Returns how many."""
    for i in range(len(draws)):
        mask[i] = np.uint8(1) if np.int32(draws[i]) < least else np.uint8(0)
    found = np.uint64(0)
    span = np.uint32(most - least)
    for i in range(len(draws)):
        left[found] = np.uint32(i)
        found += np.uint64(np.uint32(np.int32(draws[i]) - least) <= span)
    return found


@tile
def _mask_by_bucket(draws, buckets, lows, widths, mask, left, count):
    """Entries that their buckets decide; the places of the others stay in `left`. Returns how many."""
    found = np.uint64(0)
    for j in range(count):
        place = np.uint64(left[np.uint64(j)])
        bucket = np.uint64(buckets[place])
        over = np.uint32(np.int32(draws[place]) - lows[bucket])
        mask[place] = np.uint8(over >> np.uint32(31))
        left[found] = np.uint32(place)
        found += np.uint64(over <= np.uint32(widths[bucket]))
    return found


@tile
def _mask_row(
    sizes, draws, buckets, key, stream, first, density, epsilon, counts, lows, widths, spare, left, mask
):
    """One row: `draws` are its 16-bit draws; `first` its offset in the tensor."""
    length = len(sizes)
    _fill_buckets(sizes, buckets, counts)
    _fill_limits(length, density, epsilon, counts, lows, widths)
    last = _BUCKETS - 1
    found = _mask_by_draw(draws, lows[0], lows[last] + widths[last], mask, left)
    found = _mask_by_bucket(draws, buckets, lows, widths, mask, left, found)
    for j in range(found):
        place = np.int64(left[np.uint64(j)])
        limit = _limit(_rank(sizes, place), length - 1, density, epsilon)
        mask[place] = 1 if _is_below(limit, key, stream, first + place, np.int32(draws[place]), spare) else 0


@tile
def _is_below(limit, key, stream, offset, upper, spare):
    """Whether a draw, of which the upper half is known, is below a limit."""
    if np.int64(upper) != limit >> 16:
        return np.int64(upper) < limit >> 16
    draw(key, stream, 1, offset // TILE * TILE, spare)
    return np.int64(spare.view(np.uint16)[offset % TILE]) < limit & 0xFFFF


def masks(args):
    """Bytes of ones and zeros, [experts, COUNT], of a piece of whole rows.

    NUMBERS are float64: density and epsilon of each expert. WORDS are the length of a row, the address of a
    buffer of 4 · (3 · COUNT + 2 · TILE) bytes, and each expert's key and stream. The piece may begin anywhere.
    """
    experts, count, first = args[EXPERTS], args[COUNT], args[FIRST]
    inputs = carray(pointer(args[INPUTS]), experts + 1, np.int64)
    codes = carray(pointer(args[CODES]), experts + 1, np.int64)
    numbers = carray(pointer(args[NUMBERS]), 2 * experts, np.float64)
    words = carray(pointer(args[WORDS]), 2 + 2 * experts, np.int64)
    length = words[0]
    sizes = carray(pointer(words[1]), count, np.uint32)
    buckets = carray(pointer(words[1] + 6 * count + 8 * TILE), count, np.uint16)
    left = carray(pointer(words[1] + 8 * count + 8 * TILE), count, np.uint32)
    words_drawn = carray(pointer(words[1] + 4 * count), count // 2 + 2 * TILE, np.uint32)
    rows = carray(pointer(args[SCRATCH]), (2, PITCH), np.float32)
    out = carray(pointer(args[OUT]), (experts, count), np.uint8)
    tables = carray(pointer(args[SCRATCH] + 4 * 2 * PITCH), (4, _BUCKETS + 16), np.int32)
    counts, lows, widths, spare = tables[0], tables[1], tables[2], tables[3].view(np.uint32)
    skipped = first % TILE
    worst = np.uint32(0)
    for k in range(experts):
        key, stream = words[2 + 2 * k], words[3 + 2 * k]
        for start in range(0, count, TILE):
            size = min(TILE, count - start)
            worst = max(worst, widen_base(inputs, codes, start, size, rows[0], args[ROUNDING]))
            worst = max(worst, task_vector(inputs, codes, k, start, size, rows[0], rows[1], args[ROUNDING]))
            for i in range(size):
                sizes[start + i] = magnitude_bits(rows[1, i])
        for place in range(0, skipped + count, TILE):
            draw(key, stream, 0, first - skipped + place, words_drawn[place // 2 : place // 2 + TILE // 2])
        draws = words_drawn.view(np.uint16)[skipped:]
        for start in range(0, count, length):
            stop = start + length
            _mask_row(
                sizes[start:stop], draws[start:stop], buckets[start:stop], key, stream, first + start, numbers[2 * k],
                numbers[2 * k + 1], counts, lows, widths, spare, left, out[k, start:stop],
            )  # fmt: skip
    return np.int64(worst >= np.uint32(calls.NOT_FINITE))
