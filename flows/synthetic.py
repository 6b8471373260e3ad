"""Checkpoints made up for measuring: a Llama's names and shapes, random numbers, the same at every call."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from merge_lib.streaming.layout import Shard, lay_out


@dataclass(frozen=True)
class Llama:
    """The sizes of a Llama with four heads and one head for keys and values."""

    width: int
    layers: int = 12
    vocabulary: int = 32_000

    @classmethod
    def of_parameters(cls, parameters: int) -> "Llama":
        """The widest of 12 layers that has no more than so many parameters."""
        width = 64
        while cls(width + 64).parameters <= parameters:
            width += 64
        return cls(width)

    @property
    def inner(self) -> int:
        """Width inside the feed-forward blocks."""
        return self.width * 11 // 4

    @property
    def parameters(self) -> int:
        """How many there are in the matrices."""
        block = 2 * self.width**2 + self.width**2 // 2 + 3 * self.inner * self.width
        return 2 * self.vocabulary * self.width + self.layers * block

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes: nine tensors a layer, and three."""
        width, inner, keys = self.width, self.inner, self.width // 4
        block = {
            "input_layernorm": (width,),
            "mlp.down_proj": (width, inner),
            "mlp.gate_proj": (inner, width),
            "mlp.up_proj": (inner, width),
            "post_attention_layernorm": (width,),
            "self_attn.k_proj": (keys, width),
            "self_attn.o_proj": (width, width),
            "self_attn.q_proj": (width, width),
            "self_attn.v_proj": (keys, width),
        }
        layers = {
            f"model.layers.{layer}.{name}.weight": shape
            for layer in range(self.layers)
            for name, shape in block.items()
        }
        embeddings = dict.fromkeys(("lm_head.weight", "model.embed_tokens.weight"), (self.vocabulary, width))
        return {**embeddings, "model.norm.weight": (width,), **layers}

    def config(self) -> dict[str, object]:
        """What transformers reads from config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.width,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": self.width // 4,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        }


MANY_SMALL = Llama(width=112, layers=400, vocabulary=20_000)  # 3,603 tensors, 117 MB


def make_checkpoints(folder: Path, llama: Llama, experts: int) -> tuple[Path, tuple[Path, ...]]:
    """A base and experts near it, bfloat16, a model folder each; what is there already is kept.

    Returns:
        The base's folder and the experts'.
    """
    tensors = {name: ("BF16", shape) for name, shape in llama.shapes().items()}
    shard = lay_out("model.safetensors", tensors, {"format": "pt"})
    models = [folder / f"model{place}" for place in range(experts + 1)]
    for place, model in enumerate(models):
        model.mkdir(parents=True, exist_ok=True)
        (model / "config.json").write_text(json.dumps(llama.config(), indent=2))
        path = model / shard.file
        if not path.exists() or path.stat().st_size != shard.size_bytes:
            _write(path, shard, place)
    return models[0], tuple(models[1:])


def _write(path: Path, shard: Shard, place: int) -> None:
    """Numbers of the size of weights; an expert's differ from the base's, which is place 0, by a tenth."""
    with path.open("wb") as file:
        file.write(shard.header)
        for index, (_, _, shape, _) in enumerate(shard.tensors):
            count = int(np.prod(shape))
            values = 0.02 * np.random.default_rng(index).standard_normal(count, np.float32)
            if place:
                values += 0.002 * np.random.default_rng((index, place)).standard_normal(count, np.float32)
            (values.view(np.uint32) >> 16).astype("<u2").tofile(file)
