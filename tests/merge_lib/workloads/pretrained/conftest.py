"""Folders of tiny models of transformers, as `save_pretrained` writes them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from merge_lib.workloads.pretrained.locating import Located, locate


def tiny_clip() -> CLIPModel:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": 40, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 39}
    vision = {**sizes, "image_size": 16, "patch_size": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))


def tiny_t5() -> T5ForConditionalGeneration:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=40,
            d_model=16,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=2,
            decoder_start_token_id=0,
            tie_word_embeddings=False,
        )
    )


def tiny_llama(*, is_tied: bool = False) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=40,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=32,
            tie_word_embeddings=is_tied,
        )
    )


def tiny_gpt2() -> GPT2LMHeadModel:
    """Its layers hold their weights as [in, out]."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=40, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=39
        )
    )


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "clip": tiny_clip,
    "gpt2": tiny_gpt2,
    "t5": tiny_t5,
    "llama": tiny_llama,
    "tied llama": lambda: tiny_llama(is_tied=True),
}
TARGETS = {
    "clip": ("fc1", "fc2"),
    "gpt2": ("attn.c_proj", "c_fc"),
    "t5": ("q", "v"),
    "llama": ("q_proj", "mlp.up_proj"),
    "tied llama": ("q_proj",),
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    for name, make in MODELS.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            make().save_pretrained(root / name)
    return {name: root / name for name in MODELS}


@pytest.fixture(params=sorted(MODELS))
def kind(request) -> str:
    return request.param


@pytest.fixture
def located(folders, kind) -> Located:
    return locate(str(folders[kind]), Path("/"))


@pytest.fixture
def model_class(kind) -> type[PreTrainedModel]:
    return type(MODELS[kind]())


@pytest.fixture
def targets(kind) -> tuple[str, ...]:
    return TARGETS[kind]


@pytest.fixture
def outputs(kind) -> Callable[[torch.nn.Module], torch.Tensor]:
    """What a model of that kind answers to the same inputs."""
    words = torch.tensor([[5, 6, 7, 39]])
    images = torch.linspace(-1, 1, 768).reshape(1, 3, 16, 16)
    inputs = {"pixel_values": images} if kind == "clip" else {"labels": words}

    def outputs_of(model: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            told = model(input_ids=words, **inputs)
        return told.logits_per_image if kind == "clip" else told.logits

    return outputs_of
