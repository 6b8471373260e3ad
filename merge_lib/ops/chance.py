"""Randomness that depends on nothing but where it is used.

The draw for an element is a function of (seed, tensor name, expert index, offset in the tensor): pieces,
order and threads cannot change it. The function is Philox 4x64-10 in numpy's numbering, keyed by a hash of
the first three; element i takes the 32-bit half i % 2, the low one first, of the 64-bit word i // 2.
"""

from dataclasses import dataclass

import numpy as np
import torch
import xxhash
from jaxtyping import Bool
from torch import Tensor

_DRAWS_PER_BLOCK = 8  # one step of the counter gives 4 words of 64 bits


@dataclass(frozen=True)
class TensorGenerator:
    """The draws of one tensor, or of the piece of it that begins at `offset`."""

    seed: int
    tensor: str
    offset: int = 0

    def bits(self, expert: int, count: int) -> np.ndarray:
        """`count` independent uniform 32-bit integers."""
        key = xxhash.xxh3_128_intdigest(f"{self.seed}\0{expert}\0{self.tensor}".encode())
        block, skip = divmod(self.offset, _DRAWS_PER_BLOCK)
        philox = np.random.Philox(key=[key >> 64, key & (2**64 - 1)], counter=[block, 0, 0, 0])
        words = philox.random_raw((skip + count + 1) // 2)
        return words.astype("<u8", copy=False).view("<u4")[skip : skip + count]

    def keep(self, expert: int, shape: tuple[int, ...], density: float) -> Bool[Tensor, " *shape"]:
        """A mask of that shape, true with probability `density` to within 2^-32."""
        count = int(np.prod(shape, dtype=np.int64))
        kept = self.bits(expert, count) < np.uint64(round(density * 2**32))
        return torch.from_numpy(kept).reshape(shape)
