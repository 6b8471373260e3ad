"""What a method learned from data, as a file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_lib.errors import CheckpointCorruptError, CheckpointError
from merge_lib.files.headers import read_header

if TYPE_CHECKING:
    from torch import Tensor

_KEY = "mergeline.fitted"


def write_fitted(path: Path, fitted: "Mapping[str, Tensor]", lineage: Mapping[str, Any]) -> None:
    """Write learned tensors by tensor name.

    Args:
        path: where to; it appears whole or not at all.
        fitted: what `merge_lib.fitting.fit` returned.
        lineage: where it comes from, JSON values.
    """
    from safetensors.torch import save_file

    draft = path.with_name(f".{path.name}.partial")
    told = {_KEY: json.dumps(lineage, sort_keys=True)}
    save_file({name: tensor.contiguous() for name, tensor in fitted.items()}, draft, metadata=told)
    draft.replace(path)


def read_fitted(path: Path) -> "dict[str, Tensor]":
    """The tensors.

    Raises:
        CheckpointCorruptError: the file cannot be read.
    """
    from safetensors.torch import load_file

    read_fitted_lineage(path)
    return load_file(path)


def read_fitted_lineage(path: Path) -> dict[str, Any]:
    """Where the learned tensors come from; needs no torch.

    Raises:
        CheckpointCorruptError: the file is missing, damaged or not of this format.
    """
    try:
        return json.loads(read_header(path).metadata[_KEY])
    except (CheckpointError, OSError, ValueError, KeyError) as exc:
        raise CheckpointCorruptError(
            f"{path} is not a readable file of fitted values ({exc}). Fit them again."
        ) from exc
