"""The files of a merge: claimed whole at the start, filled at any place, named only when they are whole."""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Protocol, Self

from merge_lib.durability import remedy_for, sync_folder
from merge_lib.errors import CheckpointCorruptError, CheckpointError
from merge_lib.streaming.layout import Shard

PARTIAL = ".partial"
_FLUSH_EVERY_S = 0.02


class Sink(Protocol):
    """What takes the bytes of a result."""

    def write(self, name: str, start: int, data: memoryview) -> None:
        """Put bytes at a place of a tensor."""
        ...


class Output:
    """The unfinished shards of a merge, open for writing at any place."""

    def __init__(self, folder: Path, shards: Sequence[Shard], *, continues: bool) -> None:
        self._folder = folder
        self._shards = tuple(shards)
        self._files: list[int] = []
        self._places: dict[str, tuple[int, int]] = {}
        try:
            for shard in self._shards:
                file = self._open(shard, continues=continues)
                self._files.append(file)
                self._places |= {name: (file, offset) for name, offset in shard.offsets.items()}
        except BaseException:
            self.close()
            raise

    def write(self, name: str, start: int, data: memoryview) -> None:
        """Put bytes at a place of a tensor."""
        file, offset = self._places[name]
        with explained(self._folder):
            while data:
                done = os.pwrite(file, data, offset + start)
                start, data = start + done, data[done:]

    def read(self, name: str, start: int, view: memoryview) -> None:
        """Fill a buffer with bytes that an earlier run has written."""
        file, offset = self._places[name]
        read_exactly(file, view, offset + start, lambda: f"{self._folder}, tensor '{name}'")

    @contextmanager
    def flushing(self) -> Iterator[None]:
        """Send what is written to the disk while the rest is made; a failure is raised at the end."""
        is_over = Event()
        failures: list[OSError] = []

        def flush() -> None:
            while not failures and not is_over.wait(_FLUSH_EVERY_S):
                try:
                    for file in self._files:
                        os.fdatasync(file)
                except OSError as exc:
                    failures.append(exc)

        thread = Thread(target=flush, name="flush", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
        with explained(self._folder):
            for failure in failures:
                raise failure

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where the shards are until they are named."""
        return tuple(self._folder / (shard.file + PARTIAL) for shard in self._shards)

    def complete(self, headers: Sequence[bytes]) -> None:
        """Write the headers and flush every shard to the disk."""
        with explained(self._folder):
            for file, header in zip(self._files, headers, strict=True):
                os.pwrite(file, header, 0)
                os.fsync(file)

    def name(self, targets: Sequence[Path]) -> None:
        """Give every shard its name, once it is complete."""
        with explained(self._folder):
            for path, target in zip(self.paths, targets, strict=True):
                path.replace(target)
            sync_folder(targets[0].parent)

    def close(self) -> None:
        """Close the files; what was written stays for a later run."""
        for file in self._files:
            with suppress(OSError):
                os.close(file)
        self._files = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, shard: Shard, *, continues: bool) -> int:
        path = self._folder / (shard.file + PARTIAL)
        with explained(self._folder):
            flags = os.O_RDWR | os.O_CREAT | (0 if continues else os.O_TRUNC)
            file = os.open(path, flags, 0o666)
            try:
                _claim(file, shard.size_bytes)
            except BaseException:
                os.close(file)
                raise
        return file


def _claim(file: int, size: int) -> None:
    """Take the space now, so that a full disk is found before any arithmetic."""
    try:
        os.posix_fallocate(file, 0, size)
    except (AttributeError, OSError) as exc:  # not on every system, not on every file system
        if getattr(exc, "errno", errno.EOPNOTSUPP) not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        os.ftruncate(file, size)


def read_exactly(file: int, view: memoryview, offset: int, label: Callable[[], str]) -> None:
    """Fill a buffer from a place of a file; the label is for the message."""
    while (got := os.preadv(file, [view], offset)) < len(view):
        if got == 0:
            raise CheckpointCorruptError(
                f"{label()} ended {len(view)} bytes early: the file became shorter while it was read. "
                "Restore it, then merge again."
            )
        view, offset = view[got:], offset + got


def write_text(path: Path, text: str) -> None:
    """Write a small file beside its place, flush it and rename it."""
    beside = path.with_name(path.name + PARTIAL)
    with explained(path.parent), beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
        beside.replace(path)
        sync_folder(path.parent)


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn an error of the operating system into ours."""
    try:
        yield
    except OSError as exc:
        remedy = remedy_for(exc)
        raise CheckpointError(
            f"The merge cannot be written to {folder}: {exc.strerror or exc}. What is finished is kept. {remedy}"
        ) from exc
