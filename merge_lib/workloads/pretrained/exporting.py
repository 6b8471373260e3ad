"""Checkpoints of a study as folders that transformers and peft load."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from merge_lib.checkpoints import checkpoint_digest, read_state_dict, write_state_dict
from merge_lib.checkpoints.adapter_writing import write_adapter
from merge_lib.checkpoints.adapters import PREFIX
from merge_lib.checkpoints.dtypes import DTYPE_NAMES
from merge_lib.checkpoints.writer import WrittenCheckpoint
from merge_lib.errors import CheckpointError, SpecError
from merge_lib.files.folders import SINGLE
from merge_lib.types import StateDict
from merge_lib.workloads.pretrained.adapters import stores_in_out, target_layers
from merge_lib.workloads.pretrained.config import LoraConfig, TuningConfig
from merge_lib.workloads.pretrained.locating import CONFIG, Located, files_beside
from merge_lib.workloads.pretrained.rebuilding import outline, rebuild
from merge_lib.workloads.pretrained.tuning import state_of

FLOATING = {DTYPE_NAMES[dtype]: dtype for dtype in (torch.float32, torch.float16, torch.bfloat16)}


@dataclass(frozen=True)
class Exported:
    """A folder that was made.

    Attributes:
        form: "model", or "adapter" where it is to be loaded onto the model that the study began with.
        copied: files of that model that were copied beside the weights.
    """

    path: Path
    form: str
    digest: str
    size_bytes: int
    copied: tuple[str, ...] = ()


def export_model(
    checkpoint: Path, out: Path, *, located: Located, tuning: TuningConfig, dtype: str | None = None
) -> Exported:
    """Write a checkpoint as a folder that `from_pretrained` loads, adapters folded in.

    Args:
        checkpoint: of a study: the base, an expert or a merge.
        out: the folder to make.
        located: the model that the study began with; its configuration and tokenizer are copied.
        tuning: how the study trains it.
        dtype: of the tensors, such as "BF16"; None: as they are.

    Raises:
        CheckpointError: `out` exists, a file cannot be read, or the disk refused.
        CheckpointMismatchError: the checkpoint is not of this model.
        SpecError: the dtype is not one of floating numbers.
    """
    wanted = _dtype(dtype)
    _check_free(out)
    model = rebuild(located, tuning, checkpoint)
    model = model if wanted is None else model.to(wanted)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        tensors = state_of(model, TuningConfig())
        written = write_state_dict(partial / SINGLE, tensors, lineage=_lineage(checkpoint, located))
        copied = _copy_beside(located.folder, partial, next(model.parameters()).dtype)
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Exported(out, "model", written.digest, written.size_bytes, copied)


def export_adapter(checkpoint: Path, out: Path, *, located: Located, tuning: TuningConfig) -> Exported:
    """Write a checkpoint of factors as an adapter folder, which peft loads onto the model the study began with.

    Raises:
        SpecError: the study's checkpoints do not hold factors.
        CheckpointError: `out` exists, a file cannot be read, or the disk refused.
    """
    tensors = read_state_dict(checkpoint)
    if tuning.lora is None or not all(name.startswith(PREFIX) for name in tensors):
        raise SpecError(
            f"Checkpoint '{checkpoint}' does not hold the factors of adapters, so it cannot be an adapter folder. "
            "Export it as a model, or train with `tuning: {kind: lora, lora: {space: factor}}`."
        )
    lineage = _lineage(checkpoint, located)
    model = outline(located)
    written = write_factors(
        out,
        tensors,
        tuning.lora,
        base=located.source,
        is_stored_in_out=stores_in_out(model, target_layers(model, tuning.lora)),
        lineage=lineage,
    )
    return Exported(out, "adapter", written.digest, written.size_bytes)


def write_factors(
    out: Path,
    factors: StateDict,
    lora: LoraConfig,
    *,
    base: str,
    lineage: dict[str, Any],
    is_stored_in_out: bool = False,
) -> WrittenCheckpoint:
    """Write factors as an adapter folder.

    Args:
        out: the folder to make.
        factors: all tensors of a checkpoint in factor space.
        lora: as they were trained.
        base: name or folder of the model that they are for.
        lineage: JSON values that say where they come from.
        is_stored_in_out: the adapted layers hold their weights as [in, out].

    Raises:
        CheckpointError: `out` exists, or the disk refused.
    """
    fields = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": list(lora.targets),
        "bias": "none",
        "fan_in_fan_out": is_stored_in_out,
        "inference_mode": True,
        "init_lora_weights": True,
        "task_type": None,
    }
    return write_adapter(out, factors, fields, lineage=lineage)


def _dtype(name: str | None) -> torch.dtype | None:
    if name is not None and name.upper() not in FLOATING:
        raise SpecError(f"dtype '{name}' is none of {', '.join(FLOATING)}. Choose one of these.")
    return None if name is None else FLOATING[name.upper()]


def _check_free(out: Path) -> None:
    if out.exists():
        raise CheckpointError(
            f"{out} exists already. Nothing is overwritten. Name a folder that does not exist."
        )


def _lineage(checkpoint: Path, located: Located) -> dict[str, Any]:
    return {
        "kind": "export",
        "checkpoint": checkpoint_digest(checkpoint),
        "model": located.source,
        "model_digest": located.digest,
    }


def _copy_beside(folder: Path, out: Path, dtype: torch.dtype) -> tuple[str, ...]:
    """Configuration, which names the weights' dtype, and tokenizer."""
    names = files_beside(folder)
    for name in names:
        shutil.copyfile(folder / name, out / name)
    config = json.loads((out / CONFIG).read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    config["dtype"] = str(dtype).removeprefix("torch.")
    (out / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return names
