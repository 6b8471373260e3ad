"""Checkpoints on disk: read lazily, written atomically, known by their digest."""

from merge_lib.checkpoints.adapter_merging import AdapterMergeReport, merge_adapter_factors, merge_adapters
from merge_lib.checkpoints.digest import (
    Verification,
    checkpoint_digest,
    combine_digests,
    tensor_digest,
    verify,
)
from merge_lib.checkpoints.folder import FolderReader
from merge_lib.checkpoints.opening import open_checkpoint, read_state_dict
from merge_lib.checkpoints.reader import CheckpointReader
from merge_lib.checkpoints.view import Checkpoint
from merge_lib.checkpoints.writer import CheckpointWriter, WrittenCheckpoint, write_state_dict
from merge_lib.files.headers import TensorHeader
from merge_lib.files.layout import NO_DIGEST

__all__ = [
    "NO_DIGEST",
    "AdapterMergeReport",
    "Checkpoint",
    "CheckpointReader",
    "CheckpointWriter",
    "FolderReader",
    "TensorHeader",
    "Verification",
    "WrittenCheckpoint",
    "checkpoint_digest",
    "combine_digests",
    "merge_adapter_factors",
    "merge_adapters",
    "open_checkpoint",
    "read_state_dict",
    "tensor_digest",
    "verify",
    "write_state_dict",
]
