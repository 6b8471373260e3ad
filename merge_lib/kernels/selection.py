"""Counting magnitudes, or variances over the experts, to find the exact k-th largest."""

import numpy as np
from numba import carray

from merge_lib.kernels import calls
from merge_lib.kernels.calls import (
    CODES,
    COUNT,
    EXPERTS,
    FIRST,
    INPUTS,
    MAGNITUDE,
    PITCH,
    ROUNDING,
    ROW_ABOVE,
    ROW_COUNTS,
    ROW_EXPERT,
    ROW_HIGH,
    ROW_LOW,
    ROW_SHIFT,
    ROW_WORDS,
    ROW_ZEROS,
    SCRATCH,
    SPARE_ROWS,
    TILE,
    WORDS,
)  # fmt: skip
from merge_lib.kernels.masking import variance
from merge_lib.kernels.settling import task_vector
from merge_lib.kernels.tiles import magnitude_bits, pointer, tile, widen_base

_GROUP = 64  # entries that are skipped together where none is in the range


@tile
def _count(values, count, row, sizes):
    """Add a tile to a row's counts: those not below its range, those in it by their bits, and the zeros."""
    low, high = np.uint32(row[ROW_LOW]), np.uint32(row[ROW_HIGH])
    span, shift = np.uint32(high - low), np.uint32(row[ROW_SHIFT])
    above, zeros = np.uint32(0), np.uint32(0)
    for i in range(count):
        size = magnitude_bits(values[i])
        sizes[i] = np.uint32(size - low)  # in the range where this is below the span, as smaller ones wrap
        above = np.uint32(above + (np.uint32(1) if size >= high else np.uint32(0)))
        zeros = np.uint32(zeros + (np.uint32(1) if size == 0 else np.uint32(0)))
    row[ROW_ABOVE] += np.int64(above)
    row[ROW_ZEROS] += np.int64(zeros)
    counts = carray(
        pointer(row[ROW_COUNTS]), 1 + ((row[ROW_HIGH] - 1 - row[ROW_LOW]) >> row[ROW_SHIFT]), np.uint32
    )
    if low == 0 and np.int64(above) == 0:
        for i in range(count):
            counts[np.int64(np.uint32(sizes[i] >> shift))] += np.uint32(1)
        return
    for i in range(count, -(-count // _GROUP) * _GROUP):
        sizes[i] = span
    for start in range(0, count, _GROUP):
        group = sizes[start : start + _GROUP]
        inside = np.uint32(0)
        for i in range(_GROUP):
            inside = np.uint32(inside + (np.uint32(1) if group[i] < span else np.uint32(0)))
        if inside:
            for i in range(_GROUP):
                if group[i] < span:
                    counts[np.int64(np.uint32(group[i] >> shift))] += np.uint32(1)


@tile
def _cut(values, count, row, offset):
    """Look for the place after the ROW_ABOVE-th entry with the bits ROW_LOW."""
    wanted = np.uint32(row[ROW_LOW])
    equal = np.uint32(0)
    for i in range(count):
        equal = np.uint32(equal + (np.uint32(1) if magnitude_bits(values[i]) == wanted else np.uint32(0)))
    if np.int64(equal) < row[ROW_ABOVE]:
        row[ROW_ABOVE] -= np.int64(equal)
        return
    for i in range(count):
        if magnitude_bits(values[i]) == wanted:
            row[ROW_ABOVE] -= 1
            if row[ROW_ABOVE] == 0:
                row[ROW_HIGH] = offset + i + 1
                return


@tile
def _is_wanted(places, expert, finds_cut):
    """Whether a row is about this expert, and still open where it looks for a cut."""
    for place in range(len(places)):
        if places[place, ROW_EXPERT] == expert and not (finds_cut and places[place, ROW_HIGH] >= 0):
            return True
    return False


@tile
def _walk(args, finds_cut):
    experts, count, rounding = args[EXPERTS], args[COUNT], args[ROUNDING]
    inputs = carray(pointer(args[INPUTS]), experts + 1, np.int64)
    codes = carray(pointer(args[CODES]), experts + 1, np.int64)
    head = carray(pointer(args[WORDS]), 2, np.int64)
    places = carray(pointer(args[WORDS] + 16), (head[0], ROW_WORDS), np.int64)
    rows = carray(pointer(args[SCRATCH]), (experts + SPARE_ROWS, PITCH), np.float32)
    base, mean, values = rows[experts], rows[experts + 1], rows[experts + 2]
    spare = rows[experts + 3].view(np.uint32)
    worst = np.uint32(0)
    for start in range(0, count, TILE):
        size = min(TILE, count - start)
        worst = max(worst, widen_base(inputs, codes, start, size, base, rounding))
        for k in range(experts):
            if head[1] != MAGNITUDE or _is_wanted(places, k, finds_cut):
                worst = max(worst, task_vector(inputs, codes, k, start, size, base, rows[k], rounding))
        if head[1] != MAGNITUDE:
            variance(rows, experts, size, mean, values, rounding)
        for place in range(head[0]):
            keys = rows[places[place, ROW_EXPERT]] if head[1] == MAGNITUDE else values
            if not finds_cut:
                _count(keys, size, places[place], spare)
            elif places[place, ROW_HIGH] < 0:
                _cut(keys, size, places[place], args[FIRST] + start)
    return np.int64(worst >= np.uint32(calls.NOT_FINITE))


def histogram(args):
    """Add a piece to each row's counts, uint32. Returns whether something is not finite."""
    return _walk(args, False)


def find_cut(args):
    """Walk over a piece after the one before it, for the place of an entry among its equals."""
    return _walk(args, True)
