"""The few facts of a model's `config.json` that decide how its tensors are read."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from merge_lib.checkpoints.dtypes import DTYPES
from merge_lib.errors import CheckpointError

CONFIG = "config.json"
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values() if dtype.is_floating_point}


@dataclass(frozen=True)
class ModelConfig:
    """What a model says of its weights."""

    is_tied: bool = False  # input and output embeddings are one tensor
    vocab_sizes: tuple[int, ...] = ()
    dtype: torch.dtype | None = None  # that the weights had before they were quantised
    block: tuple[int, int] | None = None  # rows and columns that share one 8-bit scale


def read_model_config(folder: Path) -> ModelConfig:
    """The facts; nothing is tied or quantised where there is no `config.json`.

    Raises:
        CheckpointError: the file is not a JSON object.
    """
    path = folder / CONFIG
    if not path.exists():
        return ModelConfig()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise _unreadable(path, str(exc)) from exc
    if not isinstance(content, dict):
        raise _unreadable(path, "it is not a JSON object")
    parts = [content, *(value for key, value in sorted(content.items()) if _is_part(key, value))]
    return ModelConfig(
        is_tied=any(part.get("tie_word_embeddings") is True for part in parts),
        vocab_sizes=tuple(sorted({size for part in parts if type(size := part.get("vocab_size")) is int})),
        dtype=_first([_DTYPES.get(str(part.get("dtype", part.get("torch_dtype")))) for part in parts]),
        block=_block(content),
    )


def _is_part(key: str, value: Any) -> bool:
    """Models of several parts have a configuration for each, such as `text_config`."""
    return key.endswith("_config") and isinstance(value, dict) and key != "quantization_config"


def _block(content: dict[str, Any]) -> tuple[int, int] | None:
    quantization = content.get("quantization_config")
    block = quantization.get("weight_block_size") if isinstance(quantization, dict) else None
    if isinstance(block, list) and len(block) == 2 and all(type(n) is int and n > 0 for n in block):
        return block[0], block[1]
    return None


def _first(values: list[torch.dtype | None]) -> torch.dtype | None:
    return next((value for value in values if value is not None), None)


def _unreadable(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"Configuration {path} cannot be read: {what}. A model's configuration is a JSON object. Restore it "
        "from where it came."
    )
