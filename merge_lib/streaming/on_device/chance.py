"""Philox 4x32-10 on a device: the draws of `merge_lib.ops.chance`, in 64-bit integers.

Reference: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import torch
from torch import Tensor

_ROUNDS = 10
_FACTORS = 0xD2511F53, 0xCD9E8D57
_STEPS = 0x9E3779B9, 0xBB67AE85
_LOW = 0xFFFFFFFF
_DRAWS_PER_BLOCK = 8


def halves(
    key: int, stream: int, first: int, count: int, device: torch.device, *, second: bool = False
) -> Tensor:
    """Sixteen bits for each of `count` elements from `first` on.

    Args:
        key: 64 bits, as a signed number or not.
        stream: 63 bits.
        first: the offset of the first element in its tensor.
        count: how many elements.
        device: where the result lies.
        second: the other stream.

    Returns:
        [count], int64, below 2^16.
    """
    block, skip = divmod(first, _DRAWS_PER_BLOCK)
    counts = torch.arange(block, -(-(first + count) // _DRAWS_PER_BLOCK), device=device)
    third = torch.full_like(counts, stream & _LOW)
    fourth = torch.full_like(counts, stream >> 32 | int(second) << 31)
    words = torch.stack(_philox((counts & _LOW, counts >> 32, third, fourth), key), dim=1)  # [blocks, 4]
    drawn = torch.stack((words & 0xFFFF, words >> 16), dim=2)  # [blocks, 4, 2]
    return drawn.reshape(-1)[skip : skip + count]


def _philox(counter: tuple[Tensor, ...], key: int) -> tuple[Tensor, ...]:
    """Four words below 2^32 a block; a product keeps its 64 bits, whatever their sign."""
    c0, c1, c2, c3 = counter
    for turn in range(_ROUNDS):
        k0, k1 = ((key >> 32 * i) + turn * step & _LOW for i, step in enumerate(_STEPS))
        left, right = c0 * _FACTORS[0], c2 * _FACTORS[1]
        c0, c1 = _upper(right) ^ c1 ^ k0, right & _LOW
        c2, c3 = _upper(left) ^ c3 ^ k1, left & _LOW
    return c0, c1, c2, c3


def _upper(product: Tensor) -> Tensor:
    return product >> 32 & _LOW
