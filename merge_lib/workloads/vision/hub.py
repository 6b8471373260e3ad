"""Image data sets in the form of the Hugging Face hub: parquet files, or arrow files as `save_to_disk` leaves them.

Read with pyarrow and Pillow alone. An image is a struct of `bytes` and `path`; a label is a whole number, whose names
stand in the schema's metadata. A file or folder whose name begins with "test" holds the data set's own test images.
"""

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from merge_lib.errors import DataError
from merge_lib.workloads.hub_cache import cached_snapshot, repository_place
from merge_lib.workloads.vision.data import RawImages
from merge_lib.workloads.vision.sources import WHITE, Form, decode

TEST = re.compile(r"(^|/)test([-_./]|$)")
ROWS = 512  # decoded at once


def hub_folder(name: str) -> Path:
    """Where the hub's own tools have put a data set of that name, such as "uoft-cs/cifar100".

    Raises:
        DataError: it is not on this machine.
    """
    folder = cached_snapshot("datasets", name)
    if folder is not None and is_data_set(folder):
        return folder
    place = repository_place("datasets", name)
    msg = (
        f"Data set '{name}' is not on this machine: '{place}' has no snapshot with parquet files. With a network, "
        f"`hf download {name} --repo-type dataset` puts it there; without one, copy its parquet files into a "
        "folder of the project and describe it under `tasks` in params.yaml, with the folder as `raw`."
    )
    raise DataError(msg)


def is_data_set(folder: Path) -> bool:
    """Whether there are parquet or arrow files in the folder or below it."""
    return next(_files(folder), None) is not None


def read_data_set(folder: Path, form: Form, *, columns: Sequence[str | None] = ()) -> RawImages:
    """All images of a data set, its own test images first, so that a copy in the training part is the one to go.

    Args:
        folder: with parquet or arrow files, in sub-folders or not.
        form: how images are read.
        columns: names of the columns with images and labels; None or missing: the only one that can be it.

    Raises:
        DataError: a file cannot be read, or which columns are meant is not clear.
    """
    files = sorted(_files(folder), key=lambda file: (not _is_test(file, folder), str(file)))
    images: list[np.ndarray] = []
    labels: list[int] = []
    is_test: list[bool] = []
    names: tuple[str, ...] | None = None
    for file in files:
        table = read_table(file)
        image, label = _columns(table.schema, file, columns)
        names = names or label_names(table.schema, label)
        for row in _rows(table, image, label):
            called = f"Image {len(images)} of '{file}'"
            images.append(decode(_content(row[image], file), called, form))
            labels.append(row[label])
        is_test += [_is_test(file, folder)] * (len(images) - len(is_test))
    found = names or tuple(map(str, range(max(labels, default=-1) + 1)))
    own = np.array(is_test, dtype=bool)
    has_both = own.any() and not own.all()
    return RawImages(np.stack(images), np.array(labels, np.int64), found, WHITE, own if has_both else None)


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.suffix in {".parquet", ".arrow"})


def _is_test(file: Path, folder: Path) -> bool:
    return TEST.search(file.relative_to(folder).as_posix()) is not None


def read_table(file: Path) -> pa.Table:
    """The rows of one file."""
    import pyarrow.parquet as pq

    try:
        if file.suffix == ".parquet":
            return pq.ParquetFile(file).read()
        with pa.memory_map(str(file)) as source:
            return pa.ipc.open_stream(source).read_all()
    except (pa.ArrowException, OSError) as exc:
        msg = f"File '{file}' of the data set cannot be read ({exc}). Fetch it again."
        raise DataError(msg) from exc


def _columns(schema: pa.Schema, file: Path, given: Sequence[str | None]) -> tuple[str, str]:
    """The columns with images and with labels."""
    image, label = (*given, None, None)[:2]
    features = _features(schema)
    images = [f.name for f in schema if pa.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
    labels = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
    numbers = [f.name for f in schema if pa.types.is_integer(f.type)]
    return _column("image", image, images, file), _column("label", label, labels or numbers, file)


def _column(kind: str, name: str | None, fitting: Sequence[str], file: Path) -> str:
    """The column of that name, or else the only one that can be it."""
    if name in fitting:
        return name
    if name is None and len(fitting) == 1:
        return fitting[0]
    wanted = f"'{name}'" if name is not None else "the only one"
    msg = (
        f"File '{file}' has the columns of {kind}s {', '.join(fitting) or '(none)'}, but {wanted} was expected. "
        f"Name the right one as `{kind}` in params.yaml."
    )
    raise DataError(msg)


def _features(schema: pa.Schema) -> Mapping[str, Mapping[str, Any]]:
    """What the data set says of its columns."""
    about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return about.get("info", {}).get("features", {})


def label_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """The classes' names, if the data set says them."""
    names = _features(schema).get(label, {}).get("names")
    return tuple(names) if names else None


def _rows(table: pa.Table, image: str, label: str) -> Iterator[dict[str, Any]]:
    """Image and label of each row; only some are made into Python's objects at a time."""
    for batch in table.select([image, label]).to_batches(max_chunksize=ROWS):
        yield from batch.to_pylist()


def _content(image: Mapping[str, Any], file: Path) -> Any:
    """The image's bytes, or the file beside the data set that holds them."""
    return io.BytesIO(image["bytes"]) if image["bytes"] is not None else file.parent / image["path"]
