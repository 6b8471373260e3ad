"""Digests of files that have not changed, kept in the user's cache folder.

Each input file has one small record, written beside its place and renamed: processes may remember at the same time,
and whatever is lost or damaged is only computed again. A record holds for one state of its file (size, times, inode).
What a merge writes is never looked up here.
"""

import json
import logging
import uuid
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from merge_lib.files.folders import Source
from merge_lib.files.headers import FileState
from merge_lib.user_cache import cache_folder

SETTLED_NS = 2_000_000_000  # a file that was written later than this before it was seen may change unseen
_MOST_RECORDS = 4096
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """What is known of one file.

    Attributes:
        tensors: xxh3-128 of the bytes of tensors, by name.
        whole: other hashes of the whole file, by their names: "sha256", "md5".
    """

    tensors: Mapping[str, str] = field(default_factory=dict)
    whole: Mapping[str, str] = field(default_factory=dict)


def known_digests(source: Source) -> dict[str, str]:
    """xxh3-128 of the tensors whose files are still what they were when they were digested, by name."""
    known: dict[str, str] = {}
    for path, state in source.states.items():
        found = recall(path, state).tensors
        known |= {
            name: found[name]
            for name, tensor in source.tensors.items()
            if tensor.path == path and name in found
        }
    return known


def remember(source: Source, digests: Mapping[str, str]) -> None:
    """Keep digests of tensors that were read after the source's headers; computed tensors have none to keep."""
    by_file: dict[Path, dict[str, str]] = defaultdict(dict)
    for name, digest in digests.items():
        path = source.tensors[name].path
        if path in source.states:
            by_file[path][name] = digest
    for path, tensors in by_file.items():
        keep(path, source.states[path], Record(tensors))


def recall(path: Path, state: FileState) -> Record:
    """What is known of a file that was seen in this state, and is in it still; else an empty record."""
    try:
        if _exactly(FileState.of(path)) != _exactly(state):
            return Record()
        return _read(_place(path), _identity(path, state))
    except (OSError, ValueError, RecursionError):
        return Record()


def keep(path: Path, state: FileState, record: Record) -> None:
    """Add to what is known of a file; nothing, if it is not or might not be in the state in which it was read."""
    try:
        if _exactly(FileState.of(path)) != _exactly(state) or state.seen_ns - state.mtime_ns < SETTLED_NS:
            return
        before = recall(path, state)
        both = Record({**before.tensors, **record.tensors}, {**before.whole, **record.whole})
        if both != before:
            _write(_place(path), _identity(path, state), both)
    except OSError as exc:
        _log.info("Digests of %s cannot be remembered in %s: %s", path, cache_folder(), exc)


def _exactly(state: FileState) -> tuple[int, int, int, int]:
    """With the time that changes whatever is done to a file, so that no older time hides a change."""
    return *state.identity, state.ctime_ns


def _identity(path: Path, state: FileState) -> dict[str, Any]:
    return {"format": 1, "path": str(path.resolve()), "state": list(_exactly(state))}


def _place(path: Path) -> Path:
    return cache_folder() / "digests" / xxhash.xxh3_128_hexdigest(str(path.resolve()).encode())


def _read(place: Path, identity: Mapping[str, Any]) -> Record:
    """The record, if it is whole and of this state."""
    check, _, text = place.read_bytes().partition(b"\n")
    if check.decode() != xxhash.xxh3_128_hexdigest(text):
        return Record()
    content = json.loads(text)
    is_ours = all(content.get(key) == value for key, value in identity.items())
    return Record(content["tensors"], content["whole"]) if is_ours else Record()


def _write(place: Path, identity: Mapping[str, Any], record: Record) -> None:
    content = {**identity, "tensors": dict(record.tensors), "whole": dict(record.whole)}
    text = json.dumps(content, separators=(",", ":")).encode()
    place.parent.mkdir(parents=True, exist_ok=True)
    _forget_oldest(place.parent)
    beside = place.with_name(f"{place.name}.{uuid.uuid4().hex[:12]}")
    try:
        beside.write_bytes(xxhash.xxh3_128_hexdigest(text).encode() + b"\n" + text)
        beside.replace(place)
    finally:
        beside.unlink(missing_ok=True)


def _forget_oldest(folder: Path) -> None:
    """Half of the records, once there are many: of files that are gone, mostly."""
    records = list(folder.iterdir())
    if len(records) < _MOST_RECORDS:
        return
    written = {}
    for path in records:
        with suppress(OSError):  # another process may be forgetting them, too
            written[path] = path.stat().st_mtime_ns
    for path in sorted(written, key=written.__getitem__)[: len(records) // 2]:
        path.unlink(missing_ok=True)
