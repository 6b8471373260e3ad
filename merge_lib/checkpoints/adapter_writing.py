"""Writing an adapter as a folder in peft's format."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from merge_lib.checkpoints.writer import WrittenCheckpoint, write_state_dict
from merge_lib.errors import CheckpointError
from merge_lib.files.folders import ADAPTER, ADAPTER_CONFIG


def write_adapter(
    out: Path, tensors: Mapping[str, Tensor], fields: Mapping[str, Any], *, lineage: Mapping[str, Any]
) -> WrittenCheckpoint:
    """Write an adapter beside its place, and rename it when it is whole.

    Args:
        out: the folder to make.
        tensors: factors and whole tensors, under peft's names.
        fields: of its configuration.
        lineage: JSON values that say where the tensors come from.

    Returns:
        The file with the tensors.

    Raises:
        CheckpointError: `out` exists, or the disk refused.
    """
    out = Path(out)
    if out.exists():
        raise CheckpointError(
            f"{out} exists already. Nothing is overwritten. Name a folder that does not exist."
        )
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        written = write_state_dict(partial / ADAPTER, tensors, lineage=lineage)
        text = json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        (partial / ADAPTER_CONFIG).write_text(text, encoding="utf-8")
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return WrittenCheckpoint(out / ADAPTER, written.digest, written.size_bytes)
