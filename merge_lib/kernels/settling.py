"""Loops over a tile that do several operations at a time, rounded after each.

Between them values stay in registers, where a loop for each operation would store and load the tile. A weight of 1
changes no bit, so that one loop serves where none is asked for.
"""

import numpy as np
from numba import carray

from merge_lib.kernels.calls import BF16, F16
from merge_lib.kernels.tiles import (
    bits_of,
    float_of,
    from_f16,
    magnitude_bits,
    pointer,
    round_row,
    subtract,
    tile,
    to_bf16,
    to_f16,
    widen,
)  # fmt: skip


@tile
def _to_f32(value):
    return value


@tile
def _to_bf16(value):
    return float_of(to_bf16(bits_of(value)))


@tile
def _to_f16(value):
    return from_f16(to_f16(value))


def _subtract_from(round_one):
    @tile
    def subtract_halves(halves, base, row, count):
        worst = np.uint32(0)
        for i in range(count):
            value = float_of(np.uint32(np.uint32(halves[i]) << np.uint32(16)))
            size = magnitude_bits(value)
            worst = size if size > worst else worst
            row[i] = round_one(np.float32(value - base[i]))
        return worst

    return subtract_halves


_subtract_f32, _subtract_bf16 = _subtract_from(_to_f32), _subtract_from(_to_bf16)


@tile
def subtract_halves(halves, base, row, count, rounding):
    """Bfloat16 numbers minus `base`, in `row`, rounded to bfloat16 or not; returns the largest magnitude's bits."""
    if rounding == BF16:
        return _subtract_bf16(halves, base, row, count)
    return _subtract_f32(halves, base, row, count)


@tile
def task_vector(inputs, codes, place, start, count, base, row, rounding):
    """Expert `place` minus base, [count], in `row`; returns the largest magnitude's bits of the expert."""
    if codes[place + 1] == BF16 and rounding != F16:
        halves = carray(pointer(inputs[place + 1] + 2 * start), count, np.uint16)
        return subtract_halves(halves, base, row, count, rounding)
    worst = widen(inputs[place + 1], codes[place + 1], start, count, row)
    if codes[place + 1] != rounding:
        round_row(row, count, rounding)
    subtract(row, base, count, rounding)
    return worst


def _for_each_rounding(make):
    """The loops that `make` makes for each way to round as one function, whose first argument is the rounding."""
    in_f32, in_bf16, in_f16 = make(_to_f32), make(_to_bf16), make(_to_f16)

    @tile
    def chosen(rounding, *given):
        if rounding == BF16:
            in_bf16(*given)
        elif rounding == F16:
            in_f16(*given)
        else:
            in_f32(*given)

    return chosen


@_for_each_rounding
def settle(round_one):
    """`row` times a mask, a factor and a weight, in place, and added to `total`, which is not rounded."""

    @tile
    def loop(row, kept, factor, weight, count, total):
        for i in range(count):
            value = round_one(np.float32(np.float32(row[i] * kept[i]) * factor))
            value = round_one(np.float32(value * weight))
            row[i] = value
            total[i] += value

    return loop


@_for_each_rounding
def settle_band(round_one):
    """As `settle`, of the entries whose magnitudes' bits are `least` or less than `span` more; without a factor."""

    @tile
    def loop(row, least, span, weight, count, total):
        for i in range(count):
            inside = np.uint32(magnitude_bits(row[i]) - least) < span
            value = np.float32(row[i] * (np.float32(1) if inside else np.float32(0)))
            value = round_one(np.float32(value * weight))
            row[i] = value
            total[i] += value

    return loop


@_for_each_rounding
def settle_whole(round_one):
    """`row` times a weight, in place, and added to `total`, which is not rounded."""

    @tile
    def loop(row, weight, count, total):
        for i in range(count):
            value = round_one(np.float32(row[i] * weight))
            row[i] = value
            total[i] += value

    return loop
