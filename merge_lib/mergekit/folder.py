"""The folder of the result: weights, configuration and tokenizer, as transformers reads them."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from merge_lib.checkpoints import CheckpointWriter, WrittenCheckpoint
from merge_lib.errors import CheckpointError, CheckpointMismatchError

WEIGHTS = "model.safetensors"
_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_COPIED = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "chat_template.jinja",
    "preprocessor_config.json",
)


def write_weights(
    out: Path, layout: Any, tensors: Iterable[Any], lineage: dict[str, Any]
) -> WrittenCheckpoint:
    """One safetensors file of the tensors, in the folder."""
    with CheckpointWriter(Path(out) / WEIGHTS, layout, lineage) as writer:
        for name, tensor in tensors:
            writer.write(name, tensor)
        return writer.finish()


def write_surroundings(
    out: Path, template: Path, *, dtype: str, layers: tuple[tuple[Path, int], ...] | None
) -> None:
    """Configuration and tokenizer of the template; without them where the template is a bare file.

    Args:
        out: the folder of the result.
        template: the model that they come from.
        dtype: of the weights, as the configuration names it.
        layers: for each layer of the result the model and layer that it follows, or None where unknown.

    Raises:
        CheckpointError: the configuration cannot be read.
    """
    for name in _COPIED:
        if (template / name).is_file():
            shutil.copyfile(template / name, out / name)
    if (template / "config.json").is_file():
        config = adapt_config(_read(template / "config.json"), dtype=dtype, layers=layers)
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (out / "config.json").write_text(text, encoding="utf-8")


def adapt_config(
    config: dict[str, Any], *, dtype: str, layers: tuple[tuple[Path, int], ...] | None
) -> dict[str, Any]:
    """The configuration with the dtype and number of layers of the result; lists over layers follow."""
    adapted = dict(config)
    if isinstance(config.get("text_config"), dict):
        adapted["text_config"] = adapt_config(config["text_config"], dtype=dtype, layers=layers)
    for key in [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]:
        adapted[key] = dtype
    if layers is None:
        return adapted
    for key in _LAYER_COUNTS:
        if key in config:
            adapted[key] = len(layers)
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and all(layer < len(kinds) for _, layer in layers):
        adapted["layer_types"] = [kinds[layer] for _, layer in layers]
    return adapted


def check_tokenizers(models: Iterable[Path], template: Path) -> None:
    """Refuse models whose tokens are not those of the template: their embeddings mean something else.

    Raises:
        CheckpointMismatchError: lists the models.
    """
    expected = _vocabulary(template)
    wrong = [str(model) for model in models if expected and (_vocabulary(model) or expected) != expected]
    if wrong:
        raise CheckpointMismatchError(
            f"The tokens of {', '.join(wrong)} are not those of {template}. Rows of embeddings are merged by "
            "their number, so the tokenizers must agree. Merge models that share one."
        )


def _vocabulary(model: Path) -> dict[str, Any] | None:
    """Tokens by number, from tokenizer.json, where there is one."""
    path = model / "tokenizer.json"
    if not path.is_file():
        return None
    content = _read(path)
    return {"vocab": content.get("model", {}).get("vocab"), "added": content.get("added_tokens")}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise CheckpointError(f"{path} cannot be read: {exc}. Fetch the model again.") from exc
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object. Fetch the model again.")
    return content
