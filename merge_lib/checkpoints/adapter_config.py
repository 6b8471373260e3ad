"""What an adapter's `adapter_config.json` says, read without peft; whatever is not plain LoRA is refused by name."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from merge_lib.errors import CheckpointError
from merge_lib.files.folders import ADAPTER_CONFIG
from merge_lib.files.headers import FileState

_READ = {
    "peft_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "fan_in_fan_out",
    "rank_pattern",
    "alpha_pattern",
    "init_lora_weights",
}
_WITHOUT_EFFECT = {  # on what the stored tensors mean
    "auto_mapping",
    "base_model_name_or_path",
    "bias",  # trained biases are stored whole, as are the modules to save
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_dropout",
    "megatron_core",
    "modules_to_save",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
}
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # these leave the base as it was


@dataclass(frozen=True)
class AdapterConfig:
    """How the factors of one adapter are scaled and laid out."""

    rank: int
    alpha: float
    is_rank_stabilised: bool
    is_transposed: bool  # the base's layers hold [in, out]
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    fields: Mapping[str, Any]  # the whole file
    path: Path
    state: FileState

    def rank_of(self, module: str) -> int:
        """Rank of one module's factors."""
        return self.rank_pattern.get(_matching(self.rank_pattern, module), self.rank)

    def scale_of(self, module: str) -> float:
        """α / r, or α / √r if rank-stabilised."""
        rank = self.rank_of(module)
        alpha = self.alpha_pattern.get(_matching(self.alpha_pattern, module), self.alpha)
        return alpha / (sqrt(rank) if self.is_rank_stabilised else rank)


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read and check.

    Raises:
        CheckpointError: the file cannot be read, or asks for more than plain LoRA; every such key is named.
    """
    path = folder / ADAPTER_CONFIG
    try:
        state = FileState.of(path)
        fields = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(fields, dict):
            fields = {}
    except (OSError, ValueError, RecursionError) as exc:
        raise _refused(path, [f"it cannot be read ({exc})"]) from exc
    problems = _unsupported(fields) or _malformed(fields)
    if problems:
        raise _refused(path, problems)
    return AdapterConfig(
        rank=fields["r"],
        alpha=fields["lora_alpha"],
        is_rank_stabilised=bool(fields.get("use_rslora")),
        is_transposed=bool(fields.get("fan_in_fan_out")),
        rank_pattern=fields.get("rank_pattern") or {},
        alpha_pattern=fields.get("alpha_pattern") or {},
        fields=fields,
        path=path,
        state=state,
    )


def _unsupported(fields: Mapping[str, Any]) -> list[str]:
    if fields.get("peft_type") != "LORA":
        return [f"`peft_type` is {fields.get('peft_type')!r}"]
    problems = [
        f"`{key}` is {value!r}"
        for key, value in sorted(fields.items())
        if value and key not in _READ | _WITHOUT_EFFECT
    ]
    start = fields.get("init_lora_weights")
    if start not in _PLAIN_STARTS:
        problems.append(f"`init_lora_weights` is {start!r}, which changes the base")
    return problems


def _malformed(fields: Mapping[str, Any]) -> list[str]:
    problems = []
    if not _is_positive(fields.get("r"), whole=True):
        problems.append(f"`r` is {fields.get('r')!r} and not a positive whole number")
    if not _is_positive(fields.get("lora_alpha")):
        problems.append(f"`lora_alpha` is {fields.get('lora_alpha')!r} and not a positive number")
    for key, whole in (("rank_pattern", True), ("alpha_pattern", False)):
        pattern = fields.get(key) or {}
        if not isinstance(pattern, dict) or not all(
            _is_positive(value, whole=whole) and _compiles(name) for name, value in pattern.items()
        ):
            problems.append(f"`{key}` is {pattern!r} and not a table from patterns to positive numbers")
    return problems


def _is_positive(value: Any, *, whole: bool = False) -> bool:
    return not isinstance(value, bool) and isinstance(value, int if whole else int | float) and value > 0


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _matching(patterns: Mapping[str, Any], module: str) -> str:
    """The first pattern that matches the end of a module's name, as peft matches them."""
    return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", module)), module)


def _refused(path: Path, problems: list[str]) -> CheckpointError:
    return CheckpointError(
        f"Adapter {path.parent} cannot be used: in {path.name} {'; '.join(problems)}. Only plain LoRA adapters "
        "in peft's format are read. Merge this adapter into its base with the tool it was trained with, and "
        "use the model that comes out."
    )
