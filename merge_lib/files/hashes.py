"""Hashes of whole files that other tools know: sha256 as the hub has it, md5 as DVC has it.

Both are slower than a merge. DVC's own records are not taken over: they say what a file was when DVC saw it last.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from merge_lib.errors import SpecError
from merge_lib.files.headers import FileState, open_file
from merge_lib.files.remembered import Record, keep, recall

FileHash = Literal["sha256", "md5"]
FILE_HASHES: tuple[FileHash, ...] = ("sha256", "md5")


def check_kinds(kinds: Iterable[str]) -> tuple[FileHash, ...]:
    """The kinds, each once.

    Raises:
        SpecError: one is not known.
    """
    kinds = tuple(kinds)
    if unknown := [kind for kind in kinds if kind not in FILE_HASHES]:
        raise SpecError(f"'{unknown[0]}' is not a hash of files. Known: {', '.join(FILE_HASHES)}.")
    return tuple(kind for kind in FILE_HASHES if kind in kinds)


def hash_files(paths: Sequence[Path], kinds: Sequence[FileHash], threads: int) -> dict[Path, dict[str, str]]:
    """Hash whole files, several at a time.

    Args:
        paths: what to read.
        kinds: the hashes.
        threads: of which each hashes one file by one hash.

    Returns:
        The hashes of each file, in hexadecimal digits.
    """
    work = [(path, kind) for path in dict.fromkeys(paths) for kind in kinds]
    found: dict[Path, dict[str, str]] = {path: {} for path in paths}
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        for (path, kind), digest in zip(work, pool.map(_hash, work), strict=True):
            found[path][kind] = digest
    return found


def hash_inputs(
    states: Mapping[Path, FileState], kinds: Sequence[FileHash], threads: int
) -> dict[Path, dict[str, str]]:
    """The same of files that may be remembered: only those are read that are not known in these states.

    Args:
        states: the files, and what each was when it was first looked at.
        kinds: the hashes.
        threads: of which each hashes one file by one hash.

    Returns:
        The hashes of each file, in hexadecimal digits.
    """
    found = {path: dict(recall(path, state).whole) for path, state in states.items()}
    for kind in kinds:
        unknown = [path for path, known in found.items() if kind not in known]
        for path, hashed in hash_files(unknown, [kind], threads).items():
            found[path] |= hashed
            keep(path, states[path], Record(whole=hashed))
    return {path: {kind: known[kind] for kind in kinds} for path, known in found.items()}


def _hash(work: tuple[Path, FileHash]) -> str:
    path, kind = work
    with open_file(path) as file:
        return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
