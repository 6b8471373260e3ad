"""Raw examples of text: JSON, JSON lines, parquet and arrow files, alone or in folders.

A file or folder whose name begins with "test", "valid", "dev" or "train" holds that part of its data set. JSON may be a
list of objects, or an object with such a list under `Instances`, as Super-NaturalInstructions has it.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

from merge_lib.errors import DataError
from merge_lib.probe import Split
from merge_lib.workloads.language.snapshots import Example, Source

TABLES = {".parquet", ".arrow"}
TEXTS = {".jsonl", ".json"}
PARTS: dict[Split, re.Pattern[str]] = {
    "test": re.compile(r"(^|/)test([-_./]|$)"),
    "validation": re.compile(r"(^|/)(validation|valid|val|dev)([-_./]|$)"),
    "train": re.compile(r"(^|/)train([-_./]|$)"),
}


@dataclass(frozen=True)
class Columns:
    """Where in a row the texts are.

    Attributes:
        input: name of a column, or a text with columns in braces, such as "{premise} {hypothesis}".
        target: name of the column with the answer.
        labels: what whole numbers in that column stand for; None: what the data set says, or else the numbers.
    """

    input: str = "input"
    target: str = "target"
    labels: tuple[str, ...] | None = None


def read_source(path: Path, columns: Columns) -> Source:
    """All examples of a file, or of the files in a folder and below it.

    Raises:
        DataError: there is none, one cannot be read, or a row lacks a column.
    """
    files = sorted(_files(path)) if path.is_dir() else [path]
    if not files:
        msg = f"Folder '{path}' holds no texts. It needs JSON, JSON lines, parquet or arrow files."
        raise DataError(msg)
    examples: list[Example] = []
    parts: list[Split | None] = []
    for file in files:
        rows, named = _rows(file, columns)
        found = [_example(row, columns, named, f"Row {n} of '{file}'") for n, row in enumerate(rows)]
        examples += found
        parts += [_part(file.relative_to(path) if path.is_dir() else Path(file.name))] * len(found)
    return Source(examples, parts if len(set(parts)) > 1 else [None] * len(parts))


def _files(folder: Path) -> Iterator[Path]:
    beside = {"dataset_info.json", "state.json", "dataset_dict.json"}  # what `save_to_disk` writes
    return (
        file
        for file in folder.rglob("*")
        if file.suffix in TABLES | TEXTS and file.name not in beside and not file.name.startswith(".")
    )


def _part(file: Path) -> Split | None:
    """The part of its data set that a file is, by its name or its folder's."""
    return next((split for split, pattern in PARTS.items() if pattern.search(file.as_posix())), None)


def _rows(file: Path, columns: Columns) -> tuple[Iterable[Any], tuple[str, ...] | None]:
    """The rows of one file, and what its numbers stand for."""
    if file.suffix in TABLES:
        from merge_lib.workloads.vision.hub import label_names, read_table

        table = read_table(file)
        return table.to_pylist(), columns.labels or label_names(table.schema, columns.target)
    if not file.is_file():
        msg = f"Raw data '{file}' does not exist. Restore it or correct its `raw`."
        raise DataError(msg)
    try:
        text = file.read_text(encoding="utf-8")
        rows = (
            [json.loads(line) for line in text.split("\n") if line.strip()]
            if file.suffix == ".jsonl"
            else _listed(json.loads(text))
        )
    except (OSError, ValueError) as exc:
        msg = f"Raw data '{file}' cannot be read ({exc}). Mend it or take it out of the folder."
        raise DataError(msg) from exc
    return rows, columns.labels


def _listed(content: Any) -> list[Any]:
    """The objects of a JSON file."""
    rows = content.get("Instances", content.get("data")) if isinstance(content, Mapping) else content
    if not isinstance(rows, list):
        msg = "it is neither a list of objects nor an object with one under `Instances` or `data`"
        raise ValueError(msg)  # noqa: TRY004 -- of the file's content, as JSON's own errors
    return rows


def _example(row: Any, columns: Columns, names: Sequence[str] | None, called: str) -> Example:
    wanted = [*_named(columns.input), columns.target]
    if not isinstance(row, Mapping) or (missing := [name for name in wanted if row.get(name) is None]):
        known = ", ".join(map(str, row)) if isinstance(row, Mapping) else type(row).__name__
        lacking = ", ".join(missing) if isinstance(row, Mapping) else "all columns"
        msg = (
            f"{called} lacks {lacking}; it has: {known or '(nothing)'}. Name the right columns as `input` and "
            "`target` in params.yaml, or mend the row."
        )
        raise DataError(msg)
    text = columns.input.format_map(row) if "{" in columns.input else str(row[columns.input])
    return Example(text, _answer(row[columns.target], names, called).strip())


def _named(text: str) -> list[str]:
    """The columns that the input is made of."""
    if "{" not in text:
        return [text]
    return [name for _, name, _, _ in Formatter().parse(text) if name]


def _answer(value: Any, names: Sequence[str] | None, called: str) -> str:
    """The answer as text: a number by its name, the first of several."""
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, int) or names is None:
        return str(value)
    if not 0 <= value < len(names):
        msg = f"{called} has the answer {value}, but there are names for 0 to {len(names) - 1} only. Correct `labels`."
        raise DataError(msg)
    return names[value]
