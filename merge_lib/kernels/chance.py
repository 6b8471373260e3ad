"""Philox 4x32-10, as `merge_lib.ops.chance` draws with it, a tile at a time.

Reference: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import numpy as np
from numba import carray

from merge_lib.kernels.calls import EIGHTH, TILE
from merge_lib.kernels.tiles import bits_of, float_of, pointer, tile

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


@tile
def draw(key, stream, second, first, words):
    """The 16-bit draws of the TILE elements from `first`, in pairs, [TILE / 2]; `second`: the other stream."""
    start = np.uint64(first // 8)
    low_key, high_key = np.uint64(key) & _LOW, np.uint64(key) >> _HALF
    third = np.uint64(stream) & _LOW
    fourth = (np.uint64(stream) >> _HALF) | (np.uint64(second) << np.uint64(31))
    for block in range(TILE // 8):
        count = start + np.uint64(block)
        c0, c1, c2, c3 = count & _LOW, count >> _HALF, third, fourth
        k0, k1 = low_key, high_key
        for _ in range(10):
            left, right = _M0 * c0, _M1 * c2
            c0, c1 = (right >> _HALF) ^ c1 ^ k0, right & _LOW
            c2, c3 = (left >> _HALF) ^ c3 ^ k1, left & _LOW
            k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
        words[4 * block] = np.uint32(c0)
        words[4 * block + 1] = np.uint32(c1)
        words[4 * block + 2] = np.uint32(c2)
        words[4 * block + 3] = np.uint32(c3)


@tile
def keep_drawn(key, stream, limit, first, count, words, spare, kept):
    """Masks of ones and zeros: one where the 32-bit draw is below the limit, at most 2³².

    The upper sixteen bits decide, but where they are those of the limit the second stream has the lower ones.
    """
    draw(key, stream, 0, first, words)
    halves = words.view(np.uint16)
    upper, lower = np.uint32(limit >> 16), np.uint32(limit & 0xFFFF)
    equal = np.uint32(0)
    for i in range(count):
        half = np.uint32(halves[i])
        kept[i] = np.float32(1) if half < upper else np.float32(0)
        equal = np.uint32(1) if half == upper else equal
    if equal and lower:
        draw(key, stream, 1, first, spare)
        lows = spare.view(np.uint16)
        for i in range(count):
            if np.uint32(halves[i]) == upper and np.uint32(lows[i]) < lower:
                kept[i] = np.float32(1)


@tile
def store_mask(kept, address):
    """A tile's mask of ones and zeros as bits; all TILE places count."""
    packed = carray(pointer(address), EIGHTH, np.uint8)
    for i in range(EIGHTH):
        bits = np.uint32(0)
        for j in range(8):
            one = np.uint32(bits_of(kept[i + j * EIGHTH]) >> np.uint32(29))  # of 1.0 one bit is left
            bits = np.uint32(bits | np.uint32(one << np.uint32(j)))
        packed[i] = np.uint8(bits)


@tile
def recall_mask(address, kept):
    """The ones and zeros that `store_mask` stored."""
    packed = carray(pointer(address), EIGHTH, np.uint8)
    for j in range(8):
        for i in range(EIGHTH):
            one = np.uint32(np.uint32(np.uint32(packed[i]) >> np.uint32(j)) & np.uint32(1))
            kept[i + j * EIGHTH] = float_of(np.uint32(one * np.uint32(0x3F800000)))
