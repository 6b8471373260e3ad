"""What all kernels are made of: a tile of up to `TILE` elements widened, rounded, narrowed or summed.

Integers are cast after each operation, as numba widens them to 64 bits, which would halve the vectors.
No operation is fused or reordered, so that the bytes are those of the torch functions.
"""

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

from merge_lib.kernels import calls
from merge_lib.kernels.calls import BF16, F16, TILE

tile = njit(nogil=True, error_model="numpy", boundscheck=False)

_MAGNITUDE = np.uint32(0x7FFFFFFF)
_WORST = np.uint32(calls.NOT_FINITE)
_UP_112 = np.float32(2.0**112)
HALF = TILE // 2


@intrinsic
def pointer(_context, _address):
    """An address as a pointer."""

    def codegen(_target, builder, _signature, arguments):
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), codegen


@intrinsic
def float_of(_context, _bits):
    """The float32 that 32 bits spell."""

    def codegen(_target, builder, _signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), codegen


@intrinsic
def bits_of(_context, _value):
    """The bits of a float32."""

    def codegen(_target, builder, _signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), codegen


@tile
def magnitude_bits(value):
    """The bits of |value|; such bits are ordered like the magnitudes."""
    return np.uint32(bits_of(value) & _MAGNITUDE)


@tile
def _finite_half(half):
    """A finite float16's bits as float32."""
    size = np.uint32(half & np.uint32(0x7FFF))
    sign = np.uint32(np.uint32(half & np.uint32(0x8000)) << np.uint32(16))
    return float_of(np.uint32(sign | np.uint32(size << np.uint32(13)))) * _UP_112


@tile
def widen(address, code, start, count, row):
    """A tile in float32, exactly; returns the largest magnitude's bits."""
    worst = np.uint32(0)
    if code == BF16:
        halves = carray(pointer(address + 2 * start), count, np.uint16)
        for i in range(count):
            bits = np.uint32(np.uint32(halves[i]) << np.uint32(16))
            row[i] = float_of(bits)
            size = np.uint32(bits & _MAGNITUDE)
            worst = size if size > worst else worst
    elif code == F16:
        halves = carray(pointer(address + 2 * start), count, np.uint16)
        for i in range(count):
            half = np.uint32(halves[i])
            row[i] = _finite_half(half)
            size = np.uint32(half & np.uint32(0x7FFF))
            worst = size if size > worst else worst
        worst = _WORST if worst >= np.uint32(0x7C00) else np.uint32(0)
    else:
        words = carray(pointer(address + 4 * start), count, np.float32)
        for i in range(count):
            row[i] = words[i]
            size = magnitude_bits(words[i])
            worst = size if size > worst else worst
    return worst


@tile
def to_bf16(bits):
    """Float32 bits rounded to the nearest bfloat16, ties to even, still as 32 bits."""
    odd = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
    rounded = np.uint32(np.uint32(bits + np.uint32(0x7FFF)) + odd)
    return np.uint32(rounded & np.uint32(0xFFFF0000))


@tile
def to_f16(value):
    """The nearest float16's bits, ties to even, infinity beyond its range."""
    bits = bits_of(value)
    size = np.uint32(bits & _MAGNITUDE)
    small = np.uint32(bits_of(np.float32(float_of(size) + np.float32(0.5))) - np.uint32(0x3F000000))
    odd = np.uint32(np.uint32(size >> np.uint32(13)) & np.uint32(1))
    large = np.uint32(np.uint32(np.uint32(size - np.uint32(0x38000000)) + np.uint32(0xFFF)) + odd)
    half = small if size < np.uint32(0x38800000) else np.uint32(large >> np.uint32(13))
    half = np.uint32(0x7C00) if size >= np.uint32(0x477FF000) else half
    return np.uint32(half | np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(0x8000)))


@tile
def from_f16(half):
    """A float16's bits as float32."""
    size = np.uint32(half & np.uint32(0x7FFF))
    value = _finite_half(half)
    return np.float32(np.copysign(np.inf, value)) if size >= np.uint32(0x7C00) else value


@tile
def round_row(row, count, rounding):
    """Round a tile to the arithmetic's element type, in place."""
    if rounding == BF16:
        for i in range(count):
            row[i] = float_of(to_bf16(bits_of(row[i])))
    elif rounding == F16:
        for i in range(count):
            row[i] = from_f16(to_f16(row[i]))


@tile
def round_value(value, rounding):
    """One number, rounded."""
    if rounding == BF16:
        return float_of(to_bf16(bits_of(value)))
    if rounding == F16:
        return from_f16(to_f16(value))
    return value


@tile
def narrow(row, count, address, code, start):
    """Round a tile to the output's element type; returns the largest magnitude's bits."""
    worst = np.uint32(0)
    if code == BF16:
        halves = carray(pointer(address + 2 * start), count, np.uint16)
        for i in range(count):
            bits = to_bf16(bits_of(row[i]))
            halves[i] = np.uint16(bits >> np.uint32(16))
            size = np.uint32(bits & _MAGNITUDE)
            worst = size if size > worst else worst
    elif code == F16:
        halves = carray(pointer(address + 2 * start), count, np.uint16)
        for i in range(count):
            half = to_f16(row[i])
            halves[i] = np.uint16(half)
            size = np.uint32(half & np.uint32(0x7FFF))
            worst = size if size > worst else worst
        worst = _WORST if worst >= np.uint32(0x7C00) else np.uint32(0)
    else:
        words = carray(pointer(address + 4 * start), count, np.float32)
        for i in range(count):
            words[i] = row[i]
            size = magnitude_bits(row[i])
            worst = size if size > worst else worst
    return worst


@tile
def subtract(row, other, count, rounding):
    """`row` minus `other`, rounded, in `row`."""
    if rounding == BF16:
        for i in range(count):
            row[i] = float_of(to_bf16(bits_of(np.float32(row[i] - other[i]))))
        return
    for i in range(count):
        row[i] -= other[i]
    round_row(row, count, rounding)


@tile
def add(row, other, count, rounding):
    """`row` plus `other`, rounded, in `row`."""
    if rounding == BF16:
        for i in range(count):
            row[i] = float_of(to_bf16(bits_of(np.float32(row[i] + other[i]))))
        return
    for i in range(count):
        row[i] += other[i]
    round_row(row, count, rounding)


@tile
def multiply(row, factor, count, rounding):
    """`row` times a number, rounded, in `row`."""
    if rounding == BF16:
        for i in range(count):
            row[i] = float_of(to_bf16(bits_of(np.float32(row[i] * factor))))
        return
    for i in range(count):
        row[i] *= factor
    round_row(row, count, rounding)


@tile
def widen_base(inputs, codes, start, count, base, rounding):
    """The base's tile, or zeros where there is none; returns the largest magnitude's bits."""
    if codes[0] < 0:
        base[:count] = np.float32(0)
        return np.uint32(0)
    worst = widen(inputs[0], codes[0], start, count, base)
    if codes[0] != rounding:
        round_row(base, count, rounding)
    return worst


@tile
def clear_rest(row, count):
    """Zeros behind the first `count` of a tile, which add nothing to a sum."""
    for i in range(count, TILE):
        row[i] = np.float32(0)


@tile
def _quarter(sums, width):
    """Halve four times `width` numbers twice, in place."""
    for i in range(width):
        sums[i] = (sums[i] + sums[i + 2 * width]) + (sums[i + width] + sums[i + 3 * width])


def _tree(term):
    """A sum over a tile in float64, the second half added to the first again and again.

    What `term` gives for each place is halved before it is stored. All TILE places count.
    """

    @tile
    def tree(left, right, sums):
        for i in range(HALF):
            sums[i] = term(left, right, i) + term(left, right, i + HALF)
        _quarter(sums, 128)
        _quarter(sums, 32)
        _quarter(sums, 8)
        return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]))

    return tree


@tile
def _value(left, _right, i):
    return np.float64(left[i])


@tile
def _magnitude_of(left, _right, i):
    return np.float64(abs(left[i]))


@tile
def _kept_magnitude(left, right, i):
    return np.float64(abs(left[i] * right[i]))


@tile
def _product(left, right, i):
    return np.float64(left[i]) * np.float64(right[i])


# each takes two tiles, of which the first two use one, and HALF float64 numbers of scratch
sum_values, sum_magnitudes = _tree(_value), _tree(_magnitude_of)
sum_kept_magnitudes, sum_products = _tree(_kept_magnitude), _tree(_product)
