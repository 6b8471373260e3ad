"""`mergeline export` and `mergeline judge` as a user types them."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from flows.cli import make_app
from merge_lib.checkpoints import write_state_dict
from merge_lib.errors import CheckpointError, SpecError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A tiny model's folder, and beside it a checkpoint of the model in which every weight is doubled."""
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=12,
                hidden_size=8,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=1,
            )
        )
    model.save_pretrained(tmp_path / "start")
    doubled = {name: 2 * tensor for name, tensor in model.state_dict().items()}
    write_state_dict(tmp_path / "merged.safetensors", doubled, lineage={"kind": "merge"})
    return tmp_path


def mergeline(*words: str):
    result = CliRunner().invoke(make_app([words[0]]), list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_merge_becomes_a_folder_of_transformers(folder):
    told = json.loads(mergeline("export", "merged.safetensors", "out", "--model", "start", "--json").stdout)
    assert told["form"] == "model"
    loaded = AutoModelForCausalLM.from_pretrained(folder / "out")
    begun = AutoModelForCausalLM.from_pretrained(folder / "start")
    assert torch.equal(loaded.lm_head.weight, 2 * begun.lm_head.weight)
    shown = mergeline("export", "merged.safetensors", "half", "--model", "start", "--dtype", "f16").stdout
    assert shown.startswith("half: model of 0.0 MB, digest xxh3:")


@pytest.mark.parametrize("more", [[], ["--model", "start", "--run", "latest"]])
def test_which_model_it_is_of_is_said_once(folder, more):
    with pytest.raises(SpecError, match=r"said once: --study STUDY\.yaml, --run RUN .* or --model"):
        mergeline("export", "merged.safetensors", "out", *more)


def test_options_that_do_not_go_together_are_refused(folder):
    with pytest.raises(SpecError, match="--adapter writes factors as they are"):
        mergeline("export", "merged.safetensors", "out", "--model", "start", "--adapter", "--dtype", "F16")
    with pytest.raises(SpecError, match="--tasks names no task"):
        mergeline("judge", "start", "--tasks", " ,")


def test_a_folder_without_a_tokenizer_cannot_be_judged(folder):
    with pytest.raises(CheckpointError, match=r"Model folder '.*start' lacks tokenizer\.json"):
        mergeline("judge", "start", "--tasks", "mine")
