"""Finished work: content-addressed records on disk, independent of any server's database.

A record is a folder `store/<kind>/<key>/` with the files of the work and a `record.json`. The folder is filled
beside its place and renamed when all is in it, so a record that exists is whole.
"""

import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from merge_lib.errors import MergeError

RECORD = "record.json"


@dataclass(frozen=True)
class Record:
    """What one piece of finished work was made from and what it gave."""

    kind: str
    key: str
    inputs: dict[str, str]
    params: dict[str, Any]
    values: dict[str, Any]  # what was measured, digests and sizes of the files
    elapsed_s: float
    finished_at: float  # seconds since 1970, UTC


class RecordStore:
    """The records below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, kind: str, key: str) -> Path:
        """Where the record of that key lies, or would lie."""
        return self.root / kind / key

    def find(self, kind: str, key: str) -> Record | None:
        """The record, or None if the work is unfinished or one of its files is gone or has another size."""
        folder = self.folder(kind, key)
        try:
            record = Record(**json.loads((folder / RECORD).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        for name, size_bytes in record.values.get("files", {}).items():
            with suppress(OSError):
                if (folder / name).stat().st_size == size_bytes:
                    continue
            return None
        return record

    @contextmanager
    def writing(self, kind: str, key: str) -> Iterator[tuple[Path, Callable[..., Record]]]:
        """A folder to fill, and the call that makes it a record.

        Leaving the context without that call, by an exception or a kill, leaves no record.

        Yields:
            The folder, and `commit(inputs=, params=, values=)`.

        Raises:
            MergeError: the store cannot be written.
        """
        place = self.folder(kind, key)
        scratch = place.with_name(f".{key}.{secrets.token_hex(4)}.{os.getpid()}.partial")
        started = time.monotonic()
        try:
            scratch.mkdir(parents=True)
        except OSError as refused:
            raise MergeError(
                f"Finished work is kept in '{self.root}', which cannot be written: {refused}. "
                "Free some space or make the folder writable; what is finished stays finished."
            ) from refused

        def commit(*, inputs: dict[str, str], params: dict[str, Any], values: dict[str, Any]) -> Record:
            files = {path.name: path.stat().st_size for path in sorted(scratch.iterdir())}
            record = Record(
                kind, key, inputs, params, {**values, "files": files}, time.monotonic() - started, time.time()
            )
            already = self.find(kind, key)
            if already is not None and files.keys() <= already.values["files"].keys():
                return already  # another process finished the same work first, and kept as much of it
            (scratch / RECORD).write_text(
                json.dumps(asdict(record), indent=1, sort_keys=True), encoding="utf-8"
            )
            _put(scratch, place)
            return record

        try:
            yield scratch, commit
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def leftovers(self) -> list[Path]:
        """Folders that killed processes left half filled."""
        return [path for path in self.root.glob("*/.*.partial") if not _is_alive(path)]

    def remove_leftovers(self) -> int:
        """Delete what killed processes left half done; returns how many folders that were."""
        leftovers = self.leftovers()
        for path in leftovers:
            shutil.rmtree(path, ignore_errors=True)
        return len(leftovers)

    def of_kind(self, kind: str) -> Iterator[Record]:
        """All records of a kind, in the order of their keys."""
        for folder in sorted((self.root / kind).glob("[!.]*")):
            if (record := self.find(kind, folder.name)) is not None:
                yield record


def _put(scratch: Path, place: Path) -> None:
    """Rename; a broken record in the way goes."""
    try:
        scratch.rename(place)
    except OSError:
        shutil.rmtree(place)
        scratch.rename(place)


def _is_alive(scratch: Path) -> bool:
    process = scratch.name.split(".")[-2]
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
