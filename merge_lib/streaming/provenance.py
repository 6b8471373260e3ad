"""What went into a merge and what came out: digests of tensors, hashes of files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from merge_lib.errors import CheckpointCorruptError
from merge_lib.files.folders import Source
from merge_lib.files.hashes import FileHash, hash_files, hash_inputs
from merge_lib.files.headers import TensorHeader
from merge_lib.files.remembered import known_digests, remember
from merge_lib.streaming.output import read_exactly

Digests = Mapping[tuple[Path | None, str], str]  # by `TensorHeader.key`
_HASH_BYTES = 1 << 20


def check_unchanged(sources: Sequence[Source]) -> None:
    """Refuse inputs that are no longer what was planned with.

    Raises:
        CheckpointCorruptError: names the files.
    """
    changed = dict.fromkeys(str(path) for source in sources for path in source.changed())
    if changed:
        raise CheckpointCorruptError(
            f"{', '.join(changed)} changed while it was merged. Inputs must stay as they are until a merge is "
            "finished. Run the same command again; it starts anew."
        )


def known_by_key(sources: Sequence[Source]) -> dict[tuple[Path | None, str], str]:
    """Remembered digests of the inputs' tensors, which need not be computed; by `TensorHeader.key`."""
    return {
        source.tensors[name].key: digest
        for source in sources
        for name, digest in known_digests(source).items()
    }


def complete_digests(source: Source, taken: Digests, fresh: Digests) -> dict[str, str]:
    """Digests of all tensors of an input; those that nobody has taken are remembered, or read now.

    Args:
        source: the input.
        taken: what an earlier run has digested.
        fresh: what this run has, which is remembered.

    Returns:
        xxh3-128 by name, sorted.
    """
    known = known_digests(source)
    digests, settled = {}, {}
    for name, header in sorted(source.tensors.items()):
        told = fresh.get(header.key) or taken.get(header.key) or known.get(name)
        digests[name] = told or _digest(source, header)
        if header.key in fresh or header.key not in taken:
            settled[name] = digests[name]
    remember(source, settled)
    return digests


def _digest(source: Source, header: TensorHeader) -> str:
    """The digest of one tensor."""
    if header.path is None:
        from merge_lib.streaming.views import digest_of_view

        return digest_of_view(source, header.name)
    return _digest_of_bytes(header, header.path)


def _digest_of_bytes(header: TensorHeader, path: Path) -> str:
    """The digest of a tensor's bytes in its file."""
    digest, buffer = xxhash.xxh3_128(), memoryview(bytearray(_HASH_BYTES))
    with path.open("rb", buffering=0) as file:
        for start in range(0, header.size_bytes, _HASH_BYTES):
            view = buffer[: min(_HASH_BYTES, header.size_bytes - start)]
            read_exactly(file.fileno(), view, header.offset + start, f"Tensor '{header.name}' of {path}")
            digest.update(view)
    return digest.hexdigest()


@dataclass(frozen=True)
class FileHashes:
    """Hashes of whole files that were asked for, added to a manifest."""

    kinds: tuple[FileHash, ...]
    threads: int

    def add_inputs(self, manifest: dict[str, Any], sources: Sequence[Source]) -> None:
        """To the entries of the base and the experts; files that have not changed are not read again."""
        entries = [entry for entry in (manifest["base"], *manifest["experts"]) if entry is not None]
        for source, entry in zip(sources, entries, strict=True) if self.kinds else ():
            hashed = hash_inputs(source.states, self.kinds, self.threads)
            entry["files"] = {path.name: found for path, found in hashed.items()}

    def add_outputs(self, manifest: dict[str, Any], paths: Mapping[Path, Path]) -> None:
        """To the entry of the result.

        Args:
            manifest: to be added to.
            paths: for each file with tensors where it will be, and where it is now.
        """
        if self.kinds:
            hashed = hash_files(tuple(paths.values()), self.kinds, self.threads)
            manifest["output"]["files"] = {target.name: hashed[path] for target, path in paths.items()}
