"""What a model folder has beside its weights: the configuration and the tokenizer, taken over from an input."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from merge_lib.errors import CheckpointCorruptError
from merge_lib.files.folders import Source, stays_inside
from merge_lib.streaming.output import write_text
from merge_lib.streaming.planning import ConfigChange, MergePlan

CONFIG = "config.json"
COPIED = (
    "config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json",
    "vocab.*", "merges.txt", "spiece.model", "chat_template.*", "preprocessor_config.json",
    "processor_config.json", "image_processor_config.json", "video_preprocessor_config.json",
)  # fmt: skip
_DTYPE_KEYS = ("dtype", "torch_dtype")
_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def companion_files(plan: MergePlan) -> list[Path]:
    """Configuration and tokenizer files of the template.

    Raises:
        CheckpointCorruptError: one is a link that leaves the folder, or the configuration cannot be read.
    """
    folder = folder_of(plan.template)
    if not folder.is_dir():
        return []
    found = {path for pattern in COPIED for path in folder.glob(pattern) if path.is_file()}
    for path in found:
        if not stays_inside(folder, path):
            raise CheckpointCorruptError(
                f"'{path}' is a link that leaves its folder, to {path.resolve()}. Only files of the checkpoint "
                "are copied. Replace the link by the file."
            )
        if path.name == CONFIG:
            read_json(path)
    return sorted(found)


def folder_of(source: Source) -> Path:
    """Where a checkpoint's companions are: an adapter's are its base's."""
    is_adapter = source.base is not None and not (source.path / CONFIG).exists()
    return source.base if is_adapter else source.path  # type: ignore[return-value]


def copy_companions(plan: MergePlan, out: Path) -> None:
    """Copy those files; the configuration says what the result is where that differs."""
    for path in companion_files(plan):
        if path.name == CONFIG:
            config = read_json(path)
            adapted = adapt_config(config, plan.config)
            if plan.template.is_computed:  # weights that had scales are no longer quantised
                adapted.pop("quantization_config", None)
            if adapted != config:
                write_text(out / CONFIG, json.dumps(adapted, indent=2, ensure_ascii=False) + "\n")
                continue
        shutil.copyfile(path, out / path.name)
        _flush(out / path.name)


def adapt_config(config: dict[str, Any], change: ConfigChange, *, is_part: bool = False) -> dict[str, Any]:
    """The configuration with the dtype and number of layers of the result; lists over layers follow."""
    adapted = dict(config)
    if isinstance(config.get("text_config"), dict):
        adapted["text_config"] = adapt_config(config["text_config"], change, is_part=True)
    if change.dtype is not None:
        keys = [key for key in _DTYPE_KEYS if key in config] or ([] if is_part else ["dtype"])
        adapted |= dict.fromkeys(keys, change.dtype)
    if change.layers is not None:
        adapted |= {key: len(change.layers) for key in _LAYER_COUNTS if key in config}
        kinds = config.get("layer_types")
        if isinstance(kinds, list) and all(layer < len(kinds) for layer in change.layers):
            adapted["layer_types"] = [kinds[layer] for layer in change.layers]
    return adapted


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointCorruptError: there is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise CheckpointCorruptError(f"{path} cannot be read: {exc}. Fetch the model again.") from exc
    if not isinstance(content, dict):
        raise CheckpointCorruptError(f"{path} is not a JSON object. Fetch the model again.")
    return content


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
