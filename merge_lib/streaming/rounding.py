"""One number rounded as an element type rounds it."""

import struct

import numpy as np


def rounded(value: float, arithmetic: str) -> float:
    """The nearest bfloat16, float16 or float32, ties to even; float64 as it is.

    Args:
        value: a number; it is rounded to float32 first, as torch does it.
        arithmetic: "BF16", "F16", "F32" or "F64".
    """
    if arithmetic == "F64":
        return value
    single = np.float32(value)
    if arithmetic == "F16":
        return float(np.float16(single))
    if arithmetic == "BF16" and np.isfinite(single):
        (bits,) = struct.unpack("<I", struct.pack("<f", single))
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        return struct.unpack("<f", struct.pack("<I", bits))[0]
    return float(single)
