"""Where every byte of the result will lie, known before the first one is read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from merge_lib.streaming.headers import DTYPE_BYTES

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Shard:
    """One file of the result; tensors are (name, dtype, shape, start in the data)."""

    file: str
    header: bytes
    size_bytes: int
    tensors: tuple[tuple[str, str, Shape, int], ...]

    @property
    def offsets(self) -> dict[str, int]:
        """Where each tensor's bytes begin in the file."""
        return {name: len(self.header) + start for name, _, _, start in self.tensors}


def lay_out_shards(
    tensors: Mapping[str, tuple[str, Shape]], max_shard_bytes: int, metadata: Mapping[str, str]
) -> tuple[Shard, ...]:
    """Fill shards in the order of the names; a tensor larger than a shard gets one of its own."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name in sorted(tensors):
        size = _size_bytes(*tensors[name])
        if groups[-1] and filled + size > max_shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    total = len(groups)
    files = (
        ["model.safetensors"]
        if total == 1
        else [f"model-{i:05}-of-{total:05}.safetensors" for i in range(1, total + 1)]
    )
    return tuple(
        lay_out(file, {name: tensors[name] for name in group}, metadata)
        for file, group in zip(files, groups, strict=True)
    )


def lay_out(file: str, tensors: Mapping[str, tuple[str, Shape]], metadata: Mapping[str, str]) -> Shard:
    """One file: widest element types first, so that each is aligned, then by name."""
    placed = []
    start = 0
    for name in sorted(tensors, key=lambda name: (-DTYPE_BYTES[tensors[name][0]], name)):
        dtype, shape = tensors[name]
        placed.append((name, dtype, shape, start))
        start += _size_bytes(dtype, shape)
    header = encode_header(placed, metadata)
    return Shard(file, header, len(header) + start, tuple(placed))


def encode_header(placed: Sequence[tuple[str, str, Shape, int]], metadata: Mapping[str, str]) -> bytes:
    """Length and JSON, padded to eight bytes, as `merge_lib.checkpoints` writes them."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    for name, dtype, shape, start in placed:
        offsets = [start, start + _size_bytes(dtype, shape)]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def index_of(shards: Sequence[Shard]) -> str:
    """The index file of a model in shards."""
    sizes = [_size_bytes(dtype, shape) for shard in shards for _, dtype, shape, _ in shard.tensors]
    places = {name: shard.file for shard in shards for name, *_ in shard.tensors}
    return (
        json.dumps({"metadata": {"total_size": sum(sizes)}, "weight_map": places}, indent=2, sort_keys=True)
        + "\n"
    )


def _size_bytes(dtype: str, shape: Shape) -> int:
    return prod(shape) * DTYPE_BYTES[dtype]
