"""Where this user's things that can be made again are kept: digests of inputs, machine code."""

import os
from contextlib import suppress
from pathlib import Path
from time import time

VARIABLE = "MERGELINE_CACHE"  # another folder than ~/.cache/mergeline
_DAY_S = 86_400


def cache_folder() -> Path:
    """$MERGELINE_CACHE, or `mergeline` in the user's cache folder."""
    if own := os.environ.get(VARIABLE):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "mergeline"  # noqa: PTH111


def mark_used(path: Path) -> None:
    """Note in a file's time of writing that it was used; once a day, for that writes to the disk, too."""
    with suppress(OSError):  # the folder is read-only, or another process has forgotten the file
        if time() - path.stat().st_mtime > _DAY_S:
            os.utime(path)


def forget_unused(folder: Path, *, keep_days: float, keep_bytes: int) -> None:
    """Remove files that were not used for so many days, and of the others those beyond a size, the last used stay.

    Processes may do so at the same time, or read: an open file stays whole, and one that is missed is made again.

    Args:
        folder: holds files only.
        keep_days: since a file was written or marked as used.
        keep_bytes: of all files together.
    """
    found = []
    for path in folder.iterdir():
        with suppress(OSError):  # another process has removed it
            told = path.stat()
            found.append((told.st_mtime, told.st_size, path))
    oldest, left = time() - keep_days * _DAY_S, keep_bytes
    for used, size, path in sorted(found, reverse=True):
        left -= size
        if used < oldest or left < 0:
            with suppress(OSError):
                path.unlink()
