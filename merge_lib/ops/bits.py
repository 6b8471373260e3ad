"""Masks of one bit an entry."""

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor


def pack(mask: Bool[Tensor, " *shape"]) -> UInt8[Tensor, " bytes"]:
    """Eight entries a byte, the first in the highest bit; zeros fill the last byte."""
    return torch.from_numpy(np.packbits(mask.reshape(-1).numpy()))


def unpack(packed: UInt8[Tensor, " bytes"], shape: torch.Size) -> Bool[Tensor, " *shape"]:
    """The inverse of `pack` for a mask of that shape."""
    bits = np.unpackbits(packed.numpy(), count=shape.numel())
    return torch.from_numpy(bits).bool().reshape(shape)
