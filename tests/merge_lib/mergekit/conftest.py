import json
import shutil

import pytest
import torch
import transformers

TOKENIZER = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": []}


@pytest.fixture(scope="session")
def llamas(tmp_path_factory):
    """Three Llama checkpoints of 3 layers, as transformers saves them."""
    root = tmp_path_factory.mktemp("llamas")
    config = transformers.LlamaConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    for seed, name in enumerate(("base", "a", "b")):
        torch.manual_seed(seed)
        transformers.LlamaForCausalLM(config).save_pretrained(root / name)
        (root / name / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    return root


@pytest.fixture
def copied(llamas, tmp_path):
    """The checkpoints again, to be changed."""
    shutil.copytree(llamas, tmp_path / "copied")
    return tmp_path / "copied"
