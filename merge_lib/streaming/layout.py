"""Where every byte of the result will lie, known before the first one is read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from merge_lib.files.layout import Placed, Shape, encode_header, place, size_bytes


@dataclass(frozen=True)
class Shard:
    """One file of the result; tensors are (name, dtype, shape, start in the data)."""

    file: str
    header: bytes
    size_bytes: int
    tensors: tuple[Placed, ...]

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
        size = size_bytes(*tensors[name])
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
    """One file."""
    placed = place(tensors)
    header = encode_header(placed, metadata)
    data = sum(size_bytes(dtype, shape) for _, dtype, shape, _ in placed)
    return Shard(file, header, len(header) + data, placed)


def index_of(shards: Sequence[Shard]) -> str:
    """The index file of a model in shards."""
    sizes = [size_bytes(dtype, shape) for shard in shards for _, dtype, shape, _ in shard.tensors]
    places = {name: shard.file for shard in shards for name, *_ in shard.tensors}
    return (
        json.dumps({"metadata": {"total_size": sum(sizes)}, "weight_map": places}, indent=2, sort_keys=True)
        + "\n"
    )
