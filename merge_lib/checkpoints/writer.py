"""Writing a checkpoint: tensor by tensor, beside its place, renamed when whole; same input, same bytes."""

import errno
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from merge_lib.checkpoints.digest import combine_digests, describe_bytes, raw_bytes
from merge_lib.checkpoints.dtypes import DTYPE_NAMES
from merge_lib.durability import remedy_for, sync_folder
from merge_lib.errors import CheckpointError
from merge_lib.files.layout import LINEAGE_KEY, METADATA, NO_DIGEST, encode_header, place, size_bytes


@dataclass(frozen=True)
class WrittenCheckpoint:
    """A checkpoint that now lies on the disk, whole."""

    path: Path
    digest: str
    size_bytes: int


class CheckpointWriter:
    """A checkpoint being written; use it in a `with` statement and call `finish` inside.

    The space is claimed at the beginning, so that a full disk is found before any arithmetic. Tensors may
    come in any order. Leaving the `with` without `finish` removes what was written.

    Args:
        path: where the checkpoint will be.
        tensors: dtype and shape of every tensor.
        lineage: JSON values for the header. Digests that are not known yet are `NO_DIGEST`; the key
            "digest" is the writer's own.
    """

    def __init__(
        self,
        path: Path,
        tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
        lineage: Mapping[str, Any],
    ) -> None:
        self.path = Path(path)
        self._check_dtypes(tensors)
        self._tensors = {name: (dtype, tuple(shape)) for name, (dtype, shape) in tensors.items()}
        self._placed = place({name: (DTYPE_NAMES[dtype], shape) for name, (dtype, shape) in tensors.items()})
        self._starts = {name: start for name, _, _, start in self._placed}
        self._header = self._encode({**lineage, "digest": NO_DIGEST})
        self._lineage = lineage
        self._digests: dict[str, str] = {}
        data_bytes = sum(size_bytes(dtype, shape) for _, dtype, shape, _ in self._placed)
        self.size_bytes = len(self._header) + data_bytes
        self._partial = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex[:12]}.partial")
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._partial.open("xb")
        try:
            self._claim_space()
        except BaseException:
            self.discard()
            raise

    def write(self, name: str, tensor: Tensor) -> None:
        """Put one tensor in its place."""
        dtype, shape = self._tensors[name]
        if tensor.dtype != dtype or tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"Tensor '{name}' of {self.path} is {tensor.dtype} {tuple(tensor.shape)}, but was laid out "
                f"as {dtype} {shape}. Lay out what will be written."
            )
        data = raw_bytes(tensor)
        with self._explained():
            self._file.seek(len(self._header) + self._starts[name])
            self._file.write(data)
        self._digests[name] = describe_bytes(dtype, shape, data)

    def finish(self, lineage: Mapping[str, Any] | None = None) -> WrittenCheckpoint:
        """Fill in the digests, flush to the disk and rename.

        Args:
            lineage: the lineage with every `NO_DIGEST` replaced; None where there were none.

        Returns:
            The checkpoint in its place.

        Raises:
            CheckpointError: a tensor is missing, or the disk refused.
        """
        missing = sorted(set(self._tensors) - set(self._digests))
        if missing:
            raise CheckpointError(
                f"Checkpoint {self.path} lacks {', '.join(missing)}. Write every tensor, then finish."
            )
        digest = combine_digests(self._digests)
        final = self._lineage if lineage is None else lineage
        header = self._encode({**final, "digest": digest})
        if len(header) != len(self._header):
            raise CheckpointError(
                f"The lineage of {self.path} changed its length. Change nothing but digests in it."
            )
        with self._explained():
            self._file.seek(0)
            self._file.write(header)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._partial.replace(self.path)
            sync_folder(self.path.parent)
        return WrittenCheckpoint(self.path, digest, self.size_bytes)

    def discard(self) -> None:
        """Remove what was written so far; does nothing after `finish`."""
        with suppress(OSError):  # the buffered rest may not fit either; the file goes away all the same
            self._file.close()
        self._partial.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def _encode(self, lineage: Mapping[str, Any]) -> bytes:
        """The header; the same tensors and lineage give the same bytes."""
        told = json.dumps(lineage, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return encode_header(self._placed, {"format": "pt", LINEAGE_KEY: told})

    def _claim_space(self) -> None:
        with self._explained():
            try:
                os.posix_fallocate(self._file.fileno(), 0, self.size_bytes)
            except (AttributeError, OSError) as exc:  # not on every system, not on every file system
                if getattr(exc, "errno", errno.EOPNOTSUPP) not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise
                self._file.truncate(self.size_bytes)

    def _check_dtypes(self, tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> None:
        if METADATA in tensors:
            raise CheckpointError(
                f"A tensor of {self.path} is called '{METADATA}', which names the metadata. Rename it."
            )
        for name, (dtype, _) in sorted(tensors.items()):
            if dtype not in DTYPE_NAMES:
                raise CheckpointError(
                    f"Tensor '{name}' of {self.path} is {dtype}, which safetensors files cannot "
                    "hold. Convert it first."
                )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn an error of the operating system into ours."""
        try:
            yield
        except OSError as exc:
            remedy = remedy_for(exc)
            size = getattr(self, "size_bytes", 0)
            raise CheckpointError(
                f"Checkpoint {self.path} ({size} bytes) cannot be written: {exc.strerror or exc}. "
                f"Nothing was left behind. {remedy}"
            ) from exc


def write_state_dict(
    path: Path, tensors: Mapping[str, Tensor], *, lineage: Mapping[str, Any]
) -> WrittenCheckpoint:
    """Write tensors as one safetensors file: atomically, and byte for byte the same for the same input.

    Args:
        path: where to; an existing file is replaced, missing folders are made.
        tensors: by name; on any device, contiguous or not.
        lineage: JSON values that say where the tensors come from; "digest" is added.

    Returns:
        Path, digest and size.

    Raises:
        CheckpointError: the disk is full, the folder read-only, or a dtype unknown to the format.
    """
    layout = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    with CheckpointWriter(path, layout, lineage) as writer:
        for name in sorted(tensors):
            writer.write(name, tensors[name])
        return writer.finish()
