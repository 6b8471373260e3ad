"""Audits as tables: one value a row, small on the disk."""

import math
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from merge_lib.errors import CheckpointCorruptError, SpecError

_WORD = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("method", _WORD),
        ("label", _WORD),
        ("tensor", _WORD),
        ("role", _WORD),
        ("block", _WORD),  # "blocks.3"; empty outside of blocks
        ("expert", pa.int16()),  # in spec order, from 0; −1: of the merge as a whole
        ("task", _WORD),  # of that expert; empty where expert is −1
        ("source", _WORD),  # "measure": of `measures.MEASURES`; "note": what the method said it did
        ("quantity", _WORD),
        ("value", pa.float32()),
    ]
)
Line = tuple[str, str, str, str, str, int, str, str, str, float]


def make_table(lines: Sequence[Line]) -> pa.Table:
    """Lines in the schema's order; those whose value is undefined are left out."""
    kept = [line for line in lines if math.isfinite(line[-1])]
    columns = list(zip(*kept, strict=True)) if kept else [()] * len(SCHEMA)
    arrays = [
        pa.array(values, pa.string()).dictionary_encode()
        if field.type == _WORD
        else pa.array(values, field.type)
        for values, field in zip(columns, SCHEMA, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def write_table(table: pa.Table, path: Path) -> Path:
    """As parquet, or as CSV where the path ends so.

    Raises:
        SpecError: the path ends in something else.
    """
    if path.suffix not in (".parquet", ".csv"):
        raise SpecError(f"An audit is written as .parquet or .csv; got {path}. Give a path that ends so.")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        pa_csv.write_csv(table, path)
    else:
        pq.write_table(table, path, compression="zstd")
    return path


def read_table(path: Path, schema: pa.Schema = SCHEMA) -> pa.Table:
    """Read what `write_table` wrote as parquet.

    Raises:
        CheckpointCorruptError: the file is missing, damaged or no audit.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as exc:
        raise CheckpointCorruptError(
            f"The audit {path} cannot be read: {exc}. Run the study again; only the audit is made anew."
        ) from exc
    missing = set(schema.names) - set(table.column_names)
    if missing:
        raise CheckpointCorruptError(
            f"{path} is no audit: it has no columns {', '.join(sorted(missing))}. Give a table of `mergeline audit`."
        )
    return table
