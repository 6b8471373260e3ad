"""The arithmetic of the methods, compiled: a chunk of every input in, a chunk of the result out.

Inputs are widened to float32 in tiles that stay in the first cache, merged there in the order of the torch
functions, operation by operation, and rounded once (to nearest, ties to even). No operation is fused or
reordered, so that the bytes are those of the torch functions.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

TILE = 1024  # elements; chunks are multiples of it, which keeps random draws in step
BF16, F16, F32 = 0, 1, 2
CODES = {"BF16": BF16, "F16": F16, "F32": F32}
FIRST, LAST, AVERAGE, RUNNING_AVERAGE, INTERPOLATE, TASK_ARITHMETIC, MAGMAX, DARE, TIES = range(9)

_M0, _M1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_W0, _W1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)
_UP_112 = np.float32(2.0**112)


@intrinsic
def _high_product(_context, _left, _right):
    """The upper 64 bits of a product of 64-bit numbers."""

    def codegen(_target, builder, _signature, arguments):
        wide = ir.IntType(128)
        product = builder.mul(*(builder.zext(value, wide) for value in arguments))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), codegen


@njit(nogil=True, cache=True)
def _widen(row, code, start, count, bits, values):
    """A tile in float32, exactly; says how many elements are not finite. `bits` and `values` share memory."""
    bad = 0
    if code == BF16:
        halves = row.view(np.uint16)[start : start + count]
        for i in range(count):
            bits[i] = np.uint32(halves[i]) << np.uint32(16)
    elif code == F16:
        halves = row.view(np.uint16)[start : start + count]
        for i in range(count):
            half = np.uint32(halves[i])
            bad += (half & np.uint32(0x7C00)) == np.uint32(0x7C00)
            bits[i] = ((half & np.uint32(0x8000)) << np.uint32(16)) | (
                (half & np.uint32(0x7FFF)) << np.uint32(13)
            )
        for i in range(count):
            values[i] *= _UP_112
    else:
        words = row.view(np.uint32)[start : start + count]
        for i in range(count):
            bits[i] = words[i]
    for i in range(count):
        bad += (bits[i] & np.uint32(0x7F800000)) == np.uint32(0x7F800000)
    return bad


@njit(nogil=True, cache=True)
def _narrow(bits, values, count, row, code, start, spare_bits, spare):
    """Round a tile to the output's dtype; says how many elements are not finite then."""
    bad = 0
    if code == BF16:
        halves = row.view(np.uint16)[start : start + count]
        for i in range(count):
            word = bits[i]
            word = (word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
            halves[i] = np.uint16(word)
            bad += (word & np.uint32(0x7F80)) == np.uint32(0x7F80)
    elif code == F16:
        halves = row.view(np.uint16)[start : start + count]
        for i in range(count):
            spare[i] = np.float32(abs(values[i])) + np.float32(0.5)  # rounds to a multiple of 2^-24
        for i in range(count):
            word = np.uint32(bits[i] & np.uint32(0x7FFFFFFF))
            if word < np.uint32(0x38800000):
                half = spare_bits[i] - np.uint32(0x3F000000)
            else:
                odd = (word >> np.uint32(13)) & np.uint32(1)
                half = (word - np.uint32(0x38000000) + np.uint32(0xFFF) + odd) >> np.uint32(13)
            is_over = word >= np.uint32(0x477FF000)
            bad += is_over
            half = np.uint32(0x7C00) if is_over else half
            halves[i] = np.uint16(half | ((bits[i] >> np.uint32(16)) & np.uint32(0x8000)))
    else:
        words = row.view(np.uint32)[start : start + count]
        for i in range(count):
            words[i] = bits[i]
            bad += (bits[i] & np.uint32(0x7F800000)) == np.uint32(0x7F800000)
    return bad


@njit(nogil=True, cache=True)
def _draw(key_high, key_low, first, count, draws):
    """Philox 4x64-10 as in `merge_lib.ops.chance`: the draws of the elements from `first`, a multiple of 8."""
    for block in range((count + 7) // 8):
        c0, c1 = np.uint64(first // 8 + block + 1), np.uint64(0)
        c2, c3 = np.uint64(0), np.uint64(0)
        k0, k1 = key_high, key_low
        for _ in range(10):
            high0, low0 = _high_product(_M0, c0), _M0 * c0
            high1, low1 = _high_product(_M1, c2), _M1 * c2
            c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
            k0, k1 = k0 + _W0, k1 + _W1
        place = block * 8
        for word in (c0, c1, c2, c3):
            draws[place] = np.uint32(word & np.uint64(0xFFFFFFFF))
            draws[place + 1] = np.uint32(word >> np.uint64(32))
            place += 2


@njit(nogil=True, cache=True)
def _averages(method, rows, count, numbers, total):
    """The methods on experts themselves."""
    experts = rows.shape[0]
    for i in range(count):
        total[i] = rows[0, i]
    if method == AVERAGE:
        for k in range(1, experts):
            for i in range(count):
                total[i] += rows[k, i]
        for i in range(count):
            total[i] /= np.float32(experts)
    elif method == RUNNING_AVERAGE:
        for k in range(1, experts):
            for i in range(count):
                total[i] = (np.float32(k) * total[i] + rows[k, i]) / np.float32(k + 1)
    elif method == LAST:
        for i in range(count):
            total[i] = rows[experts - 1, i]
    elif method == INTERPOLATE:
        for k in range(1, experts):
            for i in range(count):
                total[i] = numbers[0] * total[i] + numbers[1] * rows[k, i]


@njit(nogil=True, cache=True)
def _ties(rows, count, thresholds, total, elected):
    """Trimmed, elected, averaged over those that agree; `rows` are task vectors."""
    for i in range(count):
        total[i] = 0
    for k in range(rows.shape[0]):
        for i in range(count):
            value = rows[k, i]
            value = value if np.float32(abs(value)) >= thresholds[k] else np.float32(0)
            rows[k, i] = value
            total[i] += value
    for i in range(count):
        elected[i] = np.float32(1) if total[i] >= 0 else np.float32(-1)
        total[i] = 0
    for i in range(count):
        agreeing = np.float32(0)
        for k in range(rows.shape[0]):
            value = rows[k, i]
            agrees = value * elected[i] > 0
            total[i] += value if agrees else np.float32(0)
            agreeing += np.float32(agrees)
        total[i] /= max(agreeing, np.float32(1))


@njit(nogil=True, cache=True)
def _on_task_vectors(method, rows, count, numbers, thresholds, keys, limit, first, total, spare, draws):
    """The merged task vector, before its scale; `rows` are task vectors."""
    if method == TIES:
        _ties(rows, count, thresholds, total, spare)
        return
    for i in range(count):
        total[i] = rows[0, i]
    if method == TASK_ARITHMETIC:
        for k in range(1, rows.shape[0]):
            for i in range(count):
                total[i] += rows[k, i]
    elif method == MAGMAX:
        for k in range(1, rows.shape[0]):
            for i in range(count):
                is_larger = np.float32(abs(rows[k, i])) >= np.float32(abs(total[i]))
                total[i] = rows[k, i] if is_larger else total[i]
    else:
        for k in range(rows.shape[0]):
            _draw(keys[k, 0], keys[k, 1], first, count, draws)
            for i in range(count):
                value = rows[k, i] / numbers[1] if np.uint64(draws[i]) < limit else np.float32(0)
                total[i] = value if k == 0 else total[i] + value


@njit(nogil=True, cache=True)
def merge_chunk(method, inputs, codes, out, out_code, count, numbers, thresholds, keys, limit, first):
    """Merge a chunk; returns how many elements of inputs or result are not finite.

    `inputs` are the chunk's bytes, [checkpoints, bytes], of which the first is the base where the first code
    is not −1. `numbers` are the method's coefficients, the scale first for those on task vectors; `first` is
    the chunk's offset in the tensor.
    """
    experts = len(codes) - 1
    bits = np.empty((experts, TILE), np.uint32)
    rows = bits.view(np.float32)
    base_bits, total_bits = np.zeros(TILE, np.uint32), np.empty(TILE, np.uint32)
    spare_bits, draws = np.empty(TILE, np.uint32), np.empty(TILE, np.uint32)
    base, total, spare = base_bits.view(np.float32), total_bits.view(np.float32), spare_bits.view(np.float32)
    bad = 0
    for start in range(0, count, TILE):
        size = min(TILE, count - start)
        if codes[0] >= 0:
            bad += _widen(inputs[0], codes[0], start, size, base_bits, base)
        for k in range(experts):
            bad += _widen(inputs[k + 1], codes[k + 1], start, size, bits[k], rows[k])
        if method < TASK_ARITHMETIC:
            _averages(method, rows, size, numbers, total)
        else:
            for k in range(experts):
                for i in range(size):
                    rows[k, i] -= base[i]
            _on_task_vectors(
                method, rows, size, numbers, thresholds, keys, limit, first + start, total, spare, draws
            )
            for i in range(size):
                total[i] = base[i] + numbers[0] * total[i]
        bad += _narrow(total_bits, total, size, out, out_code, start, spare_bits, spare)
    return bad


@njit(nogil=True, cache=True)
def count_digits(inputs, codes, count, shift, prefixes, counts):
    """Count sixteen bits of each task vector's magnitudes; returns how many inputs are not finite.

    Bits above them must equal the prefix, unless the prefix is −1. As `merge_lib.ops.quantile`.
    """
    bits, base_bits = np.empty(TILE, np.uint32), np.zeros(TILE, np.uint32)
    row, base = bits.view(np.float32), base_bits.view(np.float32)
    bad = 0
    for start in range(0, count, TILE):
        size = min(TILE, count - start)
        bad += _widen(inputs[0], codes[0], start, size, base_bits, base)
        for k in range(len(codes) - 1):
            bad += _widen(inputs[k + 1], codes[k + 1], start, size, bits, row)
            for i in range(size):
                row[i] = np.float32(abs(row[i] - base[i]))
            if prefixes[k] < 0:
                for i in range(size):
                    counts[k, bits[i] >> shift] += 1
            else:
                for i in range(size):
                    if np.int64(bits[i] >> np.uint32(16)) == prefixes[k]:
                        counts[k, bits[i] & np.uint32(0xFFFF)] += 1
    return bad


@njit(nogil=True, cache=True)
def widen_chunk(row, code, count, out):
    """A chunk in float32, exactly; returns how many elements are not finite."""
    bits = np.empty(TILE, np.uint32)
    values = bits.view(np.float32)
    bad = 0
    for start in range(0, count, TILE):
        size = min(TILE, count - start)
        bad += _widen(row, code, start, size, bits, values)
        for i in range(size):
            out[start + i] = values[i]
    return bad


@njit(nogil=True, cache=True)
def inner_products(left, right, start, count):
    """The products left·left, right·right and left·right, added in the order of numpy's pairwise sum."""
    squares_left, squares_right, mixed = 0.0, 0.0, 0.0
    if count > 128:
        half = count // 2
        half -= half % 8
        a0, a1, a2 = inner_products(left, right, start, half)
        b0, b1, b2 = inner_products(left, right, start + half, count - half)
        return a0 + b0, a1 + b1, a2 + b2
    sums = np.zeros((3, 8))
    whole = count - count % 8 if count >= 8 else 0
    for i in range(start, start + whole, 8):
        for j in range(8):
            a, b = np.float64(left[i + j]), np.float64(right[i + j])
            sums[0, j] += a * a
            sums[1, j] += b * b
            sums[2, j] += a * b
    if whole:
        squares_left, squares_right, mixed = _add_eight(sums[0]), _add_eight(sums[1]), _add_eight(sums[2])
    for i in range(start + whole, start + count):
        a, b = np.float64(left[i]), np.float64(right[i])
        squares_left += a * a
        squares_right += b * b
        mixed += a * b
    return squares_left, squares_right, mixed


@njit(nogil=True, cache=True)
def _add_eight(r):
    return ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]))
