"""Sums of task vectors (expert − base), thinned, weighted, elected by sign; added to the base."""

import numpy as np
from numba import carray

from merge_lib.kernels import calls
from merge_lib.kernels.calls import (
    ADD,
    ALL,
    BAND,
    BITS,
    CODES,
    COUNT,
    DIVISOR,
    ELECT_COUNTED,
    ELECT_PLAIN,
    EXPERT_NUMBERS,
    EXPERT_WORDS,
    EXPERTS,
    F32,
    FACTOR,
    FIRST,
    HEAD_WORDS,
    INPUTS,
    LARGEST,
    NUMBERS,
    OUT,
    OUT_CODE,
    PITCH,
    ROUNDING,
    SCRATCH,
    SPARE_ROWS,
    TILE,
    VARIED,
    WEIGHT,
    WORDS,
)  # fmt: skip
from merge_lib.kernels.chance import store_mask
from merge_lib.kernels.masking import band, bits_place, keep, keep_varied, words_of
from merge_lib.kernels.settling import settle, settle_band, settle_whole, task_vector
from merge_lib.kernels.tiles import (
    HALF,
    add,
    clear_rest,
    magnitude_bits,
    multiply,
    narrow,
    pointer,
    round_row,
    round_value,
    sum_kept_magnitudes,
    sum_magnitudes,
    sum_values,
    tile,
    widen_base,
)  # fmt: skip

_LEAST_DIVISOR, _LEAST_ENERGY = np.float32(1e-8), np.float32(1e-6)


@tile
def _settled(args, words, numbers, rows, k, start, size, kept, spare, total):
    """Drop entries of a task vector, scale and weigh it, in place, and add it to the total."""
    row = rows[k]
    own = numbers[1 + k * EXPERT_NUMBERS : 1 + (k + 1) * EXPERT_NUMBERS]
    weighs_now = words[calls.USE_WEIGHTS] != 0 and words[calls.COMBINE] != ELECT_PLAIN
    weight = own[WEIGHT] if weighs_now else np.float32(1)
    if own[DIVISOR] != 0:
        for i in range(size):
            row[i] /= own[DIVISOR]
    if words[calls.COMBINE] == LARGEST and words[calls.THIN] == ALL:
        return
    if words[calls.THIN] == ALL:
        settle_whole(args[ROUNDING], row, weight, size, total)
        return
    if words[calls.THIN] == BAND and own[FACTOR] == 0:
        first = args[FIRST] + start
        whole, least, span = band(words[words_of(k) : words_of(k + 1)], first, size)
        if whole:
            settle_band(args[ROUNDING], row, least, span, weight, size, total)
            return
    if words[calls.THIN] != VARIED:
        keep(words, args[EXPERTS], k, args[FIRST], start, size, args[COUNT], row, kept, spare)
    if own[FACTOR] != 0 or args[ROUNDING] == F32:
        factor = own[FACTOR] if own[FACTOR] != 0 else np.float32(1)
        settle(args[ROUNDING], row, kept, factor, weight, size, total)
        return
    for i in range(size):
        row[i] *= kept[i]
    settle_whole(args[ROUNDING], row, weight, size, total)


@tile
def _largest(rows, experts, count, total):
    for i in range(count):
        total[i] = rows[0, i]
    for k in range(1, experts):
        for i in range(count):
            is_larger = magnitude_bits(rows[k, i]) >= magnitude_bits(total[i])
            total[i] = rows[k, i] if is_larger else total[i]


@tile
def _elected(rows, experts, count, numbers, combine, rounding, total, sign, divisor, agrees):
    """Sum and divisor over the experts that have the elected sign; `total` holds the vote, then the sum.

    The vote need not be rounded: no sum of rounded numbers is so small that rounding makes it 0.
    """
    for i in range(count):
        sign[i] = np.float32(1) if total[i] >= 0 else np.float32(-1)
        total[i] = np.float32(-0.0)  # which added to anything leaves it, its sign too
        divisor[i] = np.float32(0)
    for k in range(experts):
        weight = numbers[1 + k * EXPERT_NUMBERS + WEIGHT]
        share = np.float32(1) if combine == ELECT_COUNTED else weight
        if combine == ELECT_PLAIN:
            for i in range(count):
                agrees[i] = np.float32(1) if rows[k, i] * sign[i] > 0 else np.float32(0)
            multiply(rows[k], weight, count, rounding)
            for i in range(count):
                total[i] += rows[k, i] * agrees[i]
                divisor[i] += share * agrees[i]
        else:
            for i in range(count):
                value = rows[k, i]
                agree = np.float32(1) if value * sign[i] > 0 else np.float32(0)
                total[i] += value * agree
                divisor[i] += share * agree


@tile
def _divide(total, divisor, count, normalize, counted, rounding):
    if counted:
        for i in range(count):
            total[i] /= max(divisor[i], np.float32(1))
        return
    least = round_value(_LEAST_ENERGY, rounding)
    for i in range(count):
        if normalize == 2:
            total[i] /= max(divisor[i], least)
        else:
            total[i] /= np.float32(1) if abs(divisor[i]) < _LEAST_DIVISOR else divisor[i]
    round_row(total, count, rounding)


@tile
def _combine(words, numbers, rows, experts, size, rounding, total, sign, divisor, agrees):
    """The merged task vector, before its scale; `total` is the sum of all."""
    combine, normalize = words[calls.COMBINE], words[calls.NORMALIZE]
    if combine == LARGEST:
        _largest(rows, experts, size, total)
        return
    if combine == ADD:
        round_row(total, size, rounding)
        if normalize:
            for i in range(size):
                total[i] /= numbers[1 + experts * EXPERT_NUMBERS]
            round_row(total, size, rounding)
        return
    counted = combine == ELECT_COUNTED
    _elected(rows, experts, size, numbers, combine, rounding, total, sign, divisor, agrees)
    round_row(total, size, rounding)
    if counted or normalize:
        round_row(divisor, size, rounding)
        _divide(total, divisor, size, normalize, counted, rounding)


def merge(args):
    """Merge a piece. Returns whether something is not finite."""
    experts, count, rounding = args[EXPERTS], args[COUNT], args[ROUNDING]
    inputs = carray(pointer(args[INPUTS]), experts + 1, np.int64)
    codes = carray(pointer(args[CODES]), experts + 1, np.int64)
    numbers = carray(pointer(args[NUMBERS]), 2 + experts * EXPERT_NUMBERS, np.float32)
    words = carray(pointer(args[WORDS]), HEAD_WORDS + experts * EXPERT_WORDS, np.int64)
    rows = carray(pointer(args[SCRATCH]), (experts + SPARE_ROWS, PITCH), np.float32)
    base, total, sign = rows[experts], rows[experts + 1], rows[experts + 2]
    divisor, kept, spare = rows[experts + 3], rows[experts + 4], rows[experts + 5]
    worst = np.uint32(0)
    for start in range(0, count, TILE):
        size = min(TILE, count - start)
        worst = max(worst, widen_base(inputs, codes, start, size, base, rounding))
        for k in range(experts):
            worst = max(worst, task_vector(inputs, codes, k, start, size, base, rows[k], rounding))
        if words[calls.THIN] == VARIED:
            keep_varied(words, rows, experts, size, args[FIRST] + start, rounding, sign, total, kept)
        total[:] = np.float32(-0.0)  # which leaves what is added to it, its sign too
        for k in range(experts):
            _settled(args, words, numbers, rows, k, start, size, kept, spare, total)
        _combine(words, numbers, rows, experts, size, rounding, total, sign, divisor, kept)
        if words[calls.HAS_SCALE]:
            multiply(total, numbers[0], size, rounding)
        add(total, base, size, rounding)
        worst = max(worst, narrow(total, size, args[OUT], args[OUT_CODE], start))
    return np.int64(worst >= np.uint32(calls.NOT_FINITE))


def magnitudes(args):
    """Sums of magnitudes before and after thinning, float64 [tiles, 2 · experts], with the settings of `merge`."""
    experts, count, rounding = args[EXPERTS], args[COUNT], args[ROUNDING]
    inputs = carray(pointer(args[INPUTS]), experts + 1, np.int64)
    codes = carray(pointer(args[CODES]), experts + 1, np.int64)
    words = carray(pointer(args[WORDS]), HEAD_WORDS + experts * EXPERT_WORDS, np.int64)
    rows = carray(pointer(args[SCRATCH]), (experts + SPARE_ROWS, PITCH), np.float32)
    out = carray(pointer(args[OUT]), ((count + TILE - 1) // TILE, 2 * experts), np.float64)
    base, row, kept, spare = rows[0], rows[1], rows[2], rows[3]
    wide = carray(pointer(args[SCRATCH] + 4 * 4 * PITCH), HALF, np.float64)
    worst = np.uint32(0)
    for start in range(0, count, TILE):
        size = min(TILE, count - start)
        worst = max(worst, widen_base(inputs, codes, start, size, base, rounding))
        for k in range(experts):
            worst = max(worst, task_vector(inputs, codes, k, start, size, base, row, rounding))
            keep(words, experts, k, args[FIRST], start, size, count, row, kept, spare)
            clear_rest(row, size)
            clear_rest(kept, size)
            if words[BITS]:
                store_mask(kept, bits_place(words, experts, k, start))
            out[start // TILE, 2 * k] = sum_magnitudes(row, row, wide)
            out[start // TILE, 2 * k + 1] = sum_kept_magnitudes(row, kept, wide)
    return np.int64(worst >= np.uint32(calls.NOT_FINITE))


def energies(args):
    """Sums of squares of the most varied entries, float64 [tiles, experts], with the settings of `merge`."""
    experts, count, rounding = args[EXPERTS], args[COUNT], args[ROUNDING]
    inputs = carray(pointer(args[INPUTS]), experts + 1, np.int64)
    codes = carray(pointer(args[CODES]), experts + 1, np.int64)
    words = carray(pointer(args[WORDS]), HEAD_WORDS + experts * EXPERT_WORDS, np.int64)
    rows = carray(pointer(args[SCRATCH]), (experts + SPARE_ROWS, PITCH), np.float32)
    out = carray(pointer(args[OUT]), ((count + TILE - 1) // TILE, experts), np.float64)
    base, total, mean, kept = rows[experts], rows[experts + 1], rows[experts + 2], rows[experts + 3]
    wide = carray(pointer(args[SCRATCH] + 4 * (experts + 4) * PITCH), HALF, np.float64)
    worst = np.uint32(0)
    for start in range(0, count, TILE):
        size = min(TILE, count - start)
        worst = max(worst, widen_base(inputs, codes, start, size, base, rounding))
        for k in range(experts):
            worst = max(worst, task_vector(inputs, codes, k, start, size, base, rows[k], rounding))
        if words[calls.THIN] == VARIED:
            keep_varied(words, rows, experts, size, args[FIRST] + start, rounding, mean, total, kept)
        else:
            kept[:size] = np.float32(1)
        for k in range(experts):
            for i in range(size):
                value = rows[k, i] * kept[i]
                mean[i] = value * value
            round_row(mean, size, rounding)
            clear_rest(mean, size)
            out[start // TILE, k] = sum_values(mean, mean, wide)
    return np.int64(worst >= np.uint32(calls.NOT_FINITE))
