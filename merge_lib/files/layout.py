"""The safetensors format: eight bytes of header length, a JSON header, then the tensors without gaps."""

import json
from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

Shape = tuple[int, ...]
Placed = tuple[str, str, Shape, int]  # name, dtype, shape, start counted from the end of the header

DTYPE_BYTES = {
    **{"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "BOOL": 1, "C64": 8},
    **{"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1},
}
METADATA = "__metadata__"
LINEAGE_KEY = "mergeline"
NO_DIGEST = "xxh3:" + "0" * 32  # holds the place of a digest that is known only at the end


def size_bytes(dtype: str, shape: Shape) -> int:
    """Bytes of a tensor."""
    return prod(shape) * DTYPE_BYTES[dtype]


def place(tensors: Mapping[str, tuple[str, Shape]]) -> tuple[Placed, ...]:
    """Give every tensor its place: widest element types first, so that each is aligned, then by name."""
    placed = []
    start = 0
    for name in sorted(tensors, key=lambda name: (-DTYPE_BYTES[tensors[name][0]], name)):
        dtype, shape = tensors[name]
        placed.append((name, dtype, tuple(shape), start))
        start += size_bytes(dtype, shape)
    return tuple(placed)


def encode_header(placed: Iterable[Placed], metadata: Mapping[str, str]) -> bytes:
    """Length and JSON, padded to eight bytes; the same tensors and metadata give the same bytes."""
    header: dict[str, Any] = {METADATA: dict(metadata)}
    for name, dtype, shape, start in placed:
        offsets = [start, start + size_bytes(dtype, shape)]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
