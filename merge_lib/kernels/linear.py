"""Weighted sums of the experts themselves."""

import numpy as np
from numba import carray

from merge_lib.kernels import calls
from merge_lib.kernels.calls import FOLD, PICK, PITCH, RUNNING, TILE
from merge_lib.kernels.tiles import narrow, pointer, round_row, tile, widen, widen_base


@tile
def _combine(mode, rows, experts, count, numbers, total):
    for i in range(count):
        total[i] = rows[0, i]
    if mode == FOLD:
        for k in range(1, experts):
            for i in range(count):
                total[i] = numbers[1] * total[i] + numbers[2] * rows[k, i]
    elif mode == RUNNING:
        for k in range(1, experts):
            for i in range(count):
                total[i] = (np.float32(k) * total[i] + rows[k, i]) / np.float32(k + 1)
    else:
        for i in range(count):
            total[i] *= numbers[1]
        for k in range(1, experts):
            for i in range(count):
                total[i] += rows[k, i] * numbers[k + 1]
        if numbers[0] != 0:
            for i in range(count):
                total[i] /= numbers[0]


def weighted_sum(args):
    """Merge a piece; WORDS are the mode and, to pick, the expert. Returns whether something is not finite."""
    experts, count = args[calls.EXPERTS], args[calls.COUNT]
    inputs = carray(pointer(args[calls.INPUTS]), experts + 1, np.int64)
    codes = carray(pointer(args[calls.CODES]), experts + 1, np.int64)
    numbers = carray(pointer(args[calls.NUMBERS]), experts + 1, np.float32)
    words = carray(pointer(args[calls.WORDS]), 2, np.int64)
    rows = carray(pointer(args[calls.SCRATCH]), (experts + calls.SPARE_ROWS, PITCH), np.float32)
    rounding, mode, total = args[calls.ROUNDING], words[0], rows[experts]
    worst = np.uint32(0)
    for start in range(0, count, TILE):
        size = min(TILE, count - start)
        for k in range(experts):
            worst = max(worst, widen(inputs[k + 1], codes[k + 1], start, size, rows[k]))
            if codes[k + 1] != rounding:
                round_row(rows[k], size, rounding)
        if mode == PICK:
            total = rows[words[1]]
        else:
            _combine(mode, rows, experts, size, numbers, total)
            round_row(total, size, rounding)
        worst = max(worst, narrow(total, size, args[calls.OUT], args[calls.OUT_CODE], start))
    return np.int64(worst >= np.uint32(calls.NOT_FINITE))


def towards_mean(args):
    """Between base and mean of the experts; NUMBERS are their count, the mean's share and the base's."""
    experts, count, rounding = args[calls.EXPERTS], args[calls.COUNT], args[calls.ROUNDING]
    inputs = carray(pointer(args[calls.INPUTS]), experts + 1, np.int64)
    codes = carray(pointer(args[calls.CODES]), experts + 1, np.int64)
    numbers = carray(pointer(args[calls.NUMBERS]), 3, np.float32)
    rows = carray(pointer(args[calls.SCRATCH]), (experts + calls.SPARE_ROWS, PITCH), np.float32)
    base, total, row = rows[0], rows[1], rows[2]
    worst = np.uint32(0)
    for start in range(0, count, TILE):
        size = min(TILE, count - start)
        worst = max(worst, widen_base(inputs, codes, start, size, base, rounding))
        for k in range(experts):
            worst = max(worst, widen(inputs[k + 1], codes[k + 1], start, size, row))
            if codes[k + 1] != rounding:
                round_row(row, size, rounding)
            for i in range(size):
                total[i] = row[i] if k == 0 else total[i] + row[i]
            round_row(total, size, rounding)
        for i in range(size):
            total[i] /= numbers[0]
            base[i] *= numbers[2]
        round_row(total, size, rounding)
        round_row(base, size, rounding)
        for i in range(size):
            total[i] *= numbers[1]
        round_row(total, size, rounding)
        for i in range(size):
            total[i] += base[i]
        round_row(total, size, rounding)
        worst = max(worst, narrow(total, size, args[calls.OUT], args[calls.OUT_CODE], start))
    return np.int64(worst >= np.uint32(calls.NOT_FINITE))
