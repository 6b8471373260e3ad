"""Checkpoints of a study as folders that transformers and peft load."""

from pathlib import Path
from typing import Any

from merge_lib.checkpoints.adapter_writing import write_adapter
from merge_lib.checkpoints.writer import WrittenCheckpoint
from merge_lib.types import StateDict
from merge_lib.workloads.pretrained.config import LoraConfig


def write_factors(
    out: Path, factors: StateDict, lora: LoraConfig, *, base: str, lineage: dict[str, Any]
) -> WrittenCheckpoint:
    """Write the factors of a checkpoint as an adapter folder, which peft loads onto the base.

    Args:
        out: the folder to make.
        factors: all tensors of a checkpoint in factor space.
        lora: as they were trained.
        base: name or folder of the model that they are for.
        lineage: JSON values that say where they come from.

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
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "task_type": None,
    }
    return write_adapter(out, factors, fields, lineage=lineage)
