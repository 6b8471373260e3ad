"""What a checkpoint holds, as 128 bits: names, dtypes, shapes and bytes of the tensors, not the metadata."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import xxhash
from torch import Tensor

from merge_lib.checkpoints.dtypes import DTYPE_NAMES
from merge_lib.checkpoints.opening import open_checkpoint


@dataclass(frozen=True)
class Verification:
    """What a file says it is, and what it is."""

    path: Path
    recorded: str | None  # the digest in the file's own lineage
    digest: str  # of the tensors that are there

    @property
    def matches(self) -> bool:
        """The file holds what was recorded; false where nothing was recorded."""
        return self.recorded == self.digest


def raw_bytes(tensor: Tensor) -> memoryview:
    """The tensor's elements as they lie in a file."""
    if tensor.numel() == 0:
        return memoryview(b"")
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())


def tensor_digest(tensor: Tensor) -> str:
    """128 bits over dtype, shape and bytes."""
    return describe_bytes(tensor.dtype, tuple(tensor.shape), raw_bytes(tensor))


def describe_bytes(dtype: torch.dtype, shape: tuple[int, ...], data: memoryview) -> str:
    """A tensor's entry in the checkpoint's digest."""
    return describe_digest(dtype, shape, xxhash.xxh3_128_hexdigest(data))


def describe_digest(dtype: torch.dtype, shape: tuple[int, ...], digest: str) -> str:
    """The same, where the digest of the bytes is known."""
    return f"{DTYPE_NAMES[dtype]} {list(shape)} {digest}"


def combine_digests(tensors: Mapping[str, str]) -> str:
    """The digest of a checkpoint from the digests of its tensors."""
    listing = json.dumps(sorted(tensors.items()), separators=(",", ":"))
    return f"xxh3:{xxhash.xxh3_128_hexdigest(listing.encode())}"


def checkpoint_digest(path: Path, *, base: Path | None = None) -> str:
    """Read a checkpoint (an adapter with its base) and return its digest, "xxh3:" and 32 hexadecimal digits."""
    with open_checkpoint(path, base=base) as reader:
        return combine_digests({name: tensor_digest(reader.tensor(name)) for name in reader.names})


def verify(path: Path) -> Verification:
    """Compare a checkpoint with the digest in its own lineage."""
    with open_checkpoint(path) as reader:
        recorded = reader.lineage.get("digest")
    return Verification(Path(path), recorded, checkpoint_digest(path))
