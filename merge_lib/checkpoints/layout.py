"""The safetensors format: eight bytes of header length, a JSON header, then the tensors without gaps."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

METADATA = "__metadata__"
LINEAGE_KEY = "mergeline"
NO_DIGEST = "xxh3:" + "0" * 32  # holds the place of a digest that is known only at the end
MAX_HEADER_BYTES = 100_000_000  # as in the safetensors library


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies, counted from the end of the header."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class TensorLocation:
    """Where the bytes of one tensor lie, counted from the start of a file."""

    path: Path
    offset: int
    size_bytes: int
    dtype_name: str  # as in the file's header: "BF16", "F32", …


def lay_out(tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> tuple[Entry, ...]:
    """Give every tensor its place: widest element types first, so that each is aligned, then by name."""
    entries = []
    start = 0
    for name in sorted(tensors, key=lambda name: (-tensors[name][0].itemsize, name)):
        dtype, shape = tensors[name]
        stop = start + prod(shape) * dtype.itemsize
        entries.append(Entry(name, dtype, tuple(shape), start, stop))
        start = stop
    return tuple(entries)


def encode_header(entries: Iterable[Entry], lineage: Mapping[str, Any]) -> bytes:
    """Length and header; the same entries and lineage give the same bytes."""
    header: dict[str, Any] = {
        METADATA: {
            "format": "pt",
            LINEAGE_KEY: json.dumps(lineage, sort_keys=True, separators=(",", ":"), allow_nan=False),
        }
    }
    for entry in entries:
        header[entry.name] = {
            "dtype": DTYPE_NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [entry.start, entry.stop],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def parse_header(text: bytes, data_bytes: int) -> tuple[dict[str, Entry], dict[str, str]]:
    """Entries by name, and the metadata.

    Raises:
        ValueError: says what is wrong with the header.
    """
    header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    if not isinstance(header, dict):
        raise ValueError("the header is not a JSON object")  # noqa: TRY004 -- the caller turns it into ours
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata is not a table of strings")
    entries = {name: _parse_entry(name, fields) for name, fields in header.items()}
    _check_places(entries.values(), data_bytes)
    return entries, metadata


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, refusing names that occur twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen = [name for name, _ in pairs]
        twice = sorted({name for name in seen if seen.count(name) > 1})
        raise ValueError(f"the names {', '.join(twice)} occur twice in the header")
    return found


def _parse_entry(name: str, fields: Any) -> Entry:
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor '{name}' is not described by dtype, shape and data_offsets")
    if fields["dtype"] not in DTYPES:
        raise ValueError(f"tensor '{name}' has the unknown dtype {fields['dtype']!r}")
    shape, offsets = fields["shape"], fields["data_offsets"]
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor '{name}' has the shape {shape!r} and the offsets {offsets!r}")
    dtype = DTYPES[fields["dtype"]]
    entry = Entry(name, dtype, tuple(shape), *offsets)
    if entry.stop - entry.start != prod(shape) * dtype.itemsize:
        raise ValueError(
            f"tensor '{name}' has {entry.stop - entry.start} bytes, but its dtype and shape need "
            f"{prod(shape) * dtype.itemsize}"
        )
    return entry


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_places(entries: Iterable[Entry], data_bytes: int) -> None:
    """Tensors must fill the data without gap, overlap or rest."""
    end = 0
    for entry in sorted(entries, key=lambda entry: (entry.start, entry.stop)):
        if entry.start != end:
            word = "overlaps the one before it" if entry.start < end else "leaves a gap before it"
            raise ValueError(f"tensor '{entry.name}' starts at byte {entry.start} of the data and {word}")
        end = entry.stop
    if end != data_bytes:
        raise ValueError(f"its tensors need {end} bytes of data, but the file holds {data_bytes}")
