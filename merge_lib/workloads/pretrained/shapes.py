"""Sizes of a model from its configuration alone: no weights are read and none are made.

Legend: n tokens, d width, L layers.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from merge_lib.errors import CheckpointError
from merge_lib.workloads.pretrained.adapters import target_layers
from merge_lib.workloads.pretrained.config import LoraConfig

ATTENTION = 4  # operations for each pair of tokens, layer and unit of width: scores, and their use


@dataclass(frozen=True)
class Tower:
    """A part of a model that a sequence of tokens passes through.

    Attributes:
        parameters: that every token meets; embeddings, which are looked up, are not among them.
        tokens: of an input, where the model has a fixed number of them.
    """

    parameters: int
    layers: int
    width: int
    tokens: int | None = None

    def forward(self, tokens: int) -> float:
        """Floating operations of a forward pass over a sequence: 2 · parameters · n + 4 · L · d · n²."""
        return 2.0 * self.parameters * tokens + ATTENTION * self.layers * self.width * tokens**2


@dataclass(frozen=True)
class Shape:
    """A model's sizes.

    Attributes:
        kind: "clip", "seq2seq" or "causal".
        parameters: all of them, tied ones once.
        adapted: of the adapters, if there are any.
        towers: "image" and "text"; "encoder" and "decoder"; or "decoder".
        vocabulary: tokens that an answer's token is chosen from.
    """

    kind: str
    parameters: int
    adapted: int
    towers: dict[str, Tower]
    vocabulary: int


def shape_of(path: Path, lora: LoraConfig | None = None) -> Shape:
    """The sizes of the model that a `config.json` describes.

    Raises:
        CheckpointError: the file cannot be read, or is of a model of another kind.
        SpecError: the adapters do not fit the model.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        cls = getattr(transformers, content["architectures"][0])
        config = cls.config_class.from_dict(content)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as exc:
        raise CheckpointError(
            f"Configuration '{path}' is not that of a model of transformers: {exc}. Name a model's config.json."
        ) from exc
    with torch.device("meta"):
        model = cls(config)
    adapted = 0
    if lora is not None:
        layers = (model.get_submodule(name) for name in target_layers(model, lora))
        adapted = sum(lora.rank * sum(layer.weight.shape) for layer in layers)
    kind, towers = _towers(model, config, path)
    vocabulary = 0 if kind == "clip" else config.vocab_size
    beside = _head_beside(model, content) if kind == "seq2seq" else 0
    return Shape(kind, _count(model) + beside, adapted, towers, vocabulary)


def _head_beside(model: nn.Module, content: Mapping[str, Any]) -> int:
    """Parameters of an output layer that the files hold, but that a T5 without weights ties to its embeddings."""
    head, words = model.get_output_embeddings(), model.get_input_embeddings()
    is_tied_here = head is not None and head.weight is words.weight
    return head.weight.numel() if is_tied_here and content.get("tie_word_embeddings") is False else 0


def _towers(model: nn.Module, config: Any, path: Path) -> tuple[str, dict[str, Tower]]:
    if config.model_type == "clip":
        image, text = config.vision_config, config.text_config
        patches = (image.image_size // image.patch_size) ** 2 + 1
        return "clip", {
            "image": _tower(model.vision_model, image.num_hidden_layers, image.hidden_size, patches),
            "text": _tower(
                model.text_model, text.num_hidden_layers, text.hidden_size, text.max_position_embeddings
            ),
        }
    if config.is_encoder_decoder and hasattr(config, "num_decoder_layers"):
        head = config.vocab_size * config.d_model
        decoder = _tower(model.decoder, config.num_decoder_layers, config.d_model, more=head)
        return "seq2seq", {
            "encoder": _tower(model.encoder, config.num_layers, config.d_model),
            "decoder": decoder,
        }
    if hasattr(config, "vocab_size") and model.can_generate() and not config.is_encoder_decoder:
        head = config.vocab_size * config.hidden_size
        body = model.base_model
        return "causal", {"decoder": _tower(body, config.num_hidden_layers, config.hidden_size, more=head)}
    raise CheckpointError(
        f"Configuration '{path}' is of a '{config.model_type}', whose cost is not known here. Known are CLIP, T5 and "
        "its like, and causal language models."
    )


def _tower(part: nn.Module, layers: int, width: int, tokens: int | None = None, *, more: int = 0) -> Tower:
    embeddings = sum(_count(module) for module in part.modules() if isinstance(module, nn.Embedding))
    return Tower(_count(part) - embeddings + more, layers, width, tokens)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
