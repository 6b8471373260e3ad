"""Masks of a tile of task vectors: by magnitude, by variance, by chance, or made before."""

import numpy as np
from numba import carray

from merge_lib.kernels.calls import (
    BAND,
    BITS,
    DRAWN,
    EIGHTH,
    EXPERT_WORDS,
    HEAD_WORDS,
    HIGH,
    HIGH_CUT,
    KEY,
    KEY_STREAM,
    LIMIT,
    LOW,
    LOW_CUT,
    LOW_KEEPS_LATER,
    MASKED,
    MASKS,
    RECALLED,
    THIN,
    TILE,
)  # fmt: skip
from merge_lib.kernels.chance import keep_drawn, recall_mask
from merge_lib.kernels.tiles import magnitude_bits, pointer, round_row, tile


@tile
def _cut_at(cut, first, count):
    """How many of a tile lie before an offset in the tensor."""
    return np.int32(min(max(cut - first, 0), count))


@tile
def band(words, first, count):
    """Whether no offset decides within a tile; the least bits that are kept there, and how many follow."""
    low, high = np.uint32(words[LOW]), np.uint32(words[HIGH])
    low_cut, high_cut = _cut_at(words[LOW_CUT], first, count), _cut_at(words[HIGH_CUT], first, count)
    later = words[LOW_KEEPS_LATER] != 0
    least = low if (low_cut == count) != later else np.uint32(low + np.uint32(1))
    span = np.uint32((np.uint32(high + np.uint32(1)) if high_cut == count else high) - least)
    return (low_cut == 0 or low_cut == count) and (high_cut == 0 or high_cut == count), least, span


@tile
def keep_band(values, count, words, first, kept):
    """Ones where a magnitude lies between two limits, zeros elsewhere.

    An entry that equals a limit is kept by its offset: before HIGH_CUT at the high limit; before LOW_CUT at the
    low one, or not before it where LOW_KEEPS_LATER is set.
    """
    whole, least, span = band(words, first, count)
    if whole:
        for i in range(count):
            kept[i] = np.float32(1) if np.uint32(magnitude_bits(values[i]) - least) < span else np.float32(0)
        return
    low, high = np.uint32(words[LOW]), np.uint32(words[HIGH])
    low_cut, high_cut = _cut_at(words[LOW_CUT], first, count), _cut_at(words[HIGH_CUT], first, count)
    later = words[LOW_KEEPS_LATER] != 0
    for i in range(count):
        size = magnitude_bits(values[i])
        is_before = np.int32(i) < low_cut
        above = size > low or (size == low and is_before != later)
        below = size < high or (size == high and np.int32(i) < high_cut)
        kept[i] = np.float32(1) if above and below else np.float32(0)


@tile
def variance(rows, experts, count, mean, values, rounding):
    """Over the experts, entry by entry, around their mean; the sums in float32, rounded once."""
    for i in range(count):
        mean[i] = rows[0, i]
        values[i] = np.float32(0)
    for k in range(1, experts):
        for i in range(count):
            mean[i] += rows[k, i]
    for i in range(count):
        mean[i] /= np.float32(experts)
    for k in range(experts):
        for i in range(count):
            away = rows[k, i] - mean[i]
            values[i] += away * away
    for i in range(count):
        values[i] /= np.float32(experts)
    round_row(values, count, rounding)


@tile
def keep_varied(words, rows, experts, count, first, rounding, mean, values, kept):
    """Ones where the variance over the experts lies in the first expert's band."""
    variance(rows, experts, count, mean, values, rounding)
    keep_band(values, count, words[HEAD_WORDS : HEAD_WORDS + EXPERT_WORDS], first, kept)


@tile
def words_of(k):
    """Where an expert's settings begin."""
    return HEAD_WORDS + k * EXPERT_WORDS


@tile
def bits_place(words, experts, k, start):
    """Where the bits of a tile's mask are."""
    return words[BITS] + (start // TILE * experts + k) * EIGHTH


@tile
def keep(words, experts, k, first, start, count, total, row, kept, spare):
    """The mask of one task vector, by the head's THIN."""
    own = words[words_of(k) : words_of(k + 1)]
    thin = words[THIN]
    if thin == BAND:
        keep_band(row, count, own, first + start, kept)
    elif thin == DRAWN:
        drawn = spare.view(np.uint32)
        half = TILE // 2
        keep_drawn(
            own[KEY], own[KEY_STREAM], own[LIMIT], first + start, count, drawn[:half], drawn[half:], kept
        )
    elif thin == RECALLED:
        recall_mask(bits_place(words, experts, k, start), kept)
    elif thin == MASKED:
        mask = carray(pointer(words[MASKS] + k * total + start), count, np.uint8)
        for i in range(count):
            kept[i] = np.float32(mask[i])
