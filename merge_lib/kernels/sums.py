"""Inner products of experts or task vectors, tile by tile."""

import numpy as np
from numba import carray

from merge_lib.kernels import calls
from merge_lib.kernels.calls import (
    CODES,
    COUNT,
    EXPERTS,
    INPUTS,
    OUT,
    PITCH,
    ROUNDING,
    SCRATCH,
    SPARE_ROWS,
    TILE,
    WORDS,
)
from merge_lib.kernels.settling import task_vector
from merge_lib.kernels.tiles import (
    HALF,
    clear_rest,
    pointer,
    round_row,
    sum_products,
    widen,
    widen_base,
)


def products(args):
    """Float64 [tiles, pairs]; WORDS are how many pairs, whether of task vectors, and the pairs of experts."""
    experts, count, rounding = args[EXPERTS], args[COUNT], args[ROUNDING]
    inputs = carray(pointer(args[INPUTS]), experts + 1, np.int64)
    codes = carray(pointer(args[CODES]), experts + 1, np.int64)
    pairs = carray(pointer(args[WORDS]), 1, np.int64)[0]
    words = carray(pointer(args[WORDS]), 2 + 2 * pairs, np.int64)
    rows = carray(pointer(args[SCRATCH]), (experts + SPARE_ROWS, PITCH), np.float32)
    out = carray(pointer(args[OUT]), ((count + TILE - 1) // TILE, pairs), np.float64)
    base = rows[experts]
    wide = carray(pointer(args[SCRATCH] + 4 * (experts + 2) * PITCH), HALF, np.float64)
    worst = np.uint32(0)
    for start in range(0, count, TILE):
        size = min(TILE, count - start)
        if words[1]:
            worst = max(worst, widen_base(inputs, codes, start, size, base, rounding))
        for k in range(experts):
            if words[1]:
                worst = max(worst, task_vector(inputs, codes, k, start, size, base, rows[k], rounding))
            else:
                worst = max(worst, widen(inputs[k + 1], codes[k + 1], start, size, rows[k]))
                if codes[k + 1] != rounding:
                    round_row(rows[k], size, rounding)
            clear_rest(rows[k], size)
        for pair in range(pairs):
            left, right = rows[words[2 + 2 * pair]], rows[words[3 + 2 * pair]]
            out[start // TILE, pair] = sum_products(left, right, wide)
    return np.int64(worst >= np.uint32(calls.NOT_FINITE))
