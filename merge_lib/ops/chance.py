"""Randomness that depends on nothing but where it is used.

The draw for an element is a function of (seed, tensor name, expert index, offset in the tensor): pieces,
order and threads cannot change it. The function is Philox 4x32-10 (Salmon et al., "Parallel random numbers: as
easy as 1, 2, 3", SC 2011), whose key and upper counter words are a hash of the first three. A block of the
counter gives sixteen bits to each of eight elements; a second stream, which differs in the highest bit of the
counter, gives each its lower sixteen.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from merge_lib.ops.keys import DRAWS, draw_key

_DRAWS_PER_BLOCK = 8
_ROUNDS = 10
_FACTORS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_STEPS = 0x9E3779B9, 0xBB67AE85
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_BLOCKS_AT_ONCE = 1 << 16


def philox(counter: tuple[np.ndarray, ...], key: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Philox 4x32-10.

    Args:
        counter: four arrays of one shape, uint64 with values below 2^32.
        key: two numbers below 2^32.

    Returns:
        Four arrays of that shape, uint64 with values below 2^32.
    """
    c0, c1, c2, c3 = counter
    for turn in range(_ROUNDS):
        k0, k1 = (np.uint64((word + turn * step) % 2**32) for word, step in zip(key, _STEPS, strict=True))
        left, right = _FACTORS[0] * c0, _FACTORS[1] * c2
        c0, c1 = (right >> _HALF) ^ c1 ^ k0, right & _LOW
        c2, c3 = (left >> _HALF) ^ c3 ^ k1, left & _LOW
    return c0, c1, c2, c3


@dataclass(frozen=True)
class TensorGenerator:
    """The draws of one tensor, or of the piece of it that begins at `offset`."""

    seed: int
    tensor: str
    offset: int = 0

    def bits(self, expert: int, count: int) -> np.ndarray:
        """`count` independent uniform 32-bit integers."""
        upper, lower = (self._halves(expert, count, second=second) for second in (False, True))
        return (upper.astype(np.uint32) << np.uint32(16)) | lower

    def keep(self, expert: int, shape: tuple[int, ...], density: float) -> Bool[Tensor, " *shape"]:
        """A mask of that shape, true with probability `density` to within 2^-32."""
        count = int(np.prod(shape, dtype=np.int64))
        upper, lower = divmod(round(density * DRAWS), 1 << 16)
        halves = self._halves(expert, count, second=False)
        kept, equal = halves < upper, np.flatnonzero(halves == upper)
        if lower and equal.size:
            kept[equal] = self._halves(expert, count, second=True)[equal] < lower
        return torch.from_numpy(kept).reshape(shape)

    def _halves(self, expert: int, count: int, *, second: bool) -> np.ndarray:
        """The upper sixteen bits of the draws, or the lower ones of the second stream; uint16 [count]."""
        first, skip = divmod(self.offset, _DRAWS_PER_BLOCK)
        blocks = -(-(skip + count) // _DRAWS_PER_BLOCK)
        words = [
            self._words(expert, first + start, min(_BLOCKS_AT_ONCE, blocks - start), second=second)
            for start in range(0, blocks, _BLOCKS_AT_ONCE)
        ]
        drawn = np.concatenate(words) if words else np.empty(0, "<u4")
        return drawn.view("<u2")[skip : skip + count]

    def _words(self, expert: int, first: int, blocks: int, *, second: bool) -> np.ndarray:
        """The 32-bit words of consecutive blocks, [4 · blocks]."""
        key, stream = draw_key(self.seed, expert, self.tensor)
        counts = np.arange(first, first + blocks, dtype=np.uint64)
        upper = [np.uint64(stream & 0xFFFFFFFF), np.uint64(stream >> 32 | int(second) << 31)]
        counter = (counts & _LOW, counts >> _HALF, *(np.full_like(counts, word) for word in upper))
        words = philox(counter, (key & 0xFFFFFFFF, (key >> 32) & 0xFFFFFFFF))
        return np.stack(words, axis=1).astype("<u4").reshape(-1)
