"""Tiny models of four architectures, randomly initialised: what merges must load in."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


@dataclass(frozen=True)
class Tiny:
    """One architecture."""

    kind: str
    query: str  # name of the layers that adapters update

    def make(self, seed: int) -> Any:
        """A model with weights of its own."""
        import transformers as hf

        torch.manual_seed(seed)
        if self.kind.endswith("llama"):
            tied = self.kind == "llama"
            config = hf.LlamaConfig(
                **SIZES, vocab_size=30, num_key_value_heads=2, tie_word_embeddings=tied, pad_token_id=0
            )
            return hf.LlamaForCausalLM(config).eval()
        if self.kind == "t5":
            config = hf.T5Config(d_model=16, d_ff=24, d_kv=8, num_layers=2, num_heads=2, vocab_size=30)
            return hf.T5ForConditionalGeneration(config).eval()
        if self.kind == "vit":
            return hf.ViTForImageClassification(hf.ViTConfig(**SIZES, image_size=8, patch_size=4)).eval()
        text = {**SIZES, "vocab_size": 30, "max_position_embeddings": 8}
        vision = {**SIZES, "image_size": 8, "patch_size": 4}
        tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        config = hf.CLIPConfig(text_config={**text, **tokens}, vision_config=vision, projection_dim=8)
        return hf.CLIPModel(config).eval()

    def run(self, model: Any) -> Tensor:
        """What the model says to a fixed input."""
        ids, image = torch.tensor([[1, 5, 6, 2]]), torch.linspace(-1, 1, 192).reshape(1, 3, 8, 8)
        with torch.no_grad():
            if self.kind.endswith("llama"):
                return model(input_ids=ids).logits
            if self.kind == "t5":
                return model(input_ids=ids, decoder_input_ids=ids).logits
            if self.kind == "vit":
                return model(pixel_values=image).logits
            return model(input_ids=ids, pixel_values=image).logits_per_image

    def save(self, model: Any, folder: Path, **options: Any) -> Path:
        """The model in several shards."""
        model.save_pretrained(folder, max_shard_size="10KB", **options)
        return folder

    def load(self, folder: Path) -> Any:
        """The model as `transformers` loads it; nothing may be missing, left over or of another shape."""
        model, info = type(self.make(0)).from_pretrained(folder, output_loading_info=True)
        assert not any(info.values()), info
        return model.eval()


@pytest.fixture(params=["llama", "t5", "vit", "clip"])
def tiny(request) -> Tiny:
    query = {"llama": "q_proj", "t5": "q", "vit": "q_proj", "clip": "q_proj"}
    return Tiny(request.param, query[request.param])


@pytest.fixture
def tiny_llama() -> Tiny:
    return Tiny("llama", "q_proj")


@pytest.fixture
def tiny_vit() -> Tiny:
    return Tiny("vit", "q_proj")


@pytest.fixture
def untied_llama() -> Tiny:
    return Tiny("untied llama", "q_proj")


@pytest.fixture
def make_adapter() -> Callable[..., Any]:
    """Writes an adapter with random factors for a model, and returns the model as peft merges it."""

    def make(model: Any, folder: Path, *, seed: int, **options: Any) -> Any:
        from peft import LoraConfig, PeftModel, get_peft_model

        torch.manual_seed(seed)
        wrapped = get_peft_model(model, LoraConfig(**options))
        for name, parameter in wrapped.named_parameters():
            if (
                "lora_" in name
                or ".modules_to_save." in name
                or (name.endswith(".bias") and parameter.requires_grad)
            ):
                parameter.data = torch.randn_like(parameter) * 0.3
        wrapped.save_pretrained(folder)
        original = wrapped.unload()
        return PeftModel.from_pretrained(original, folder).merge_and_unload().eval()

    return make
