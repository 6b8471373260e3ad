"""Tensors with several names."""

import json

import pytest
import torch
from safetensors.torch import save_file

from merge_lib.checkpoints import open_checkpoint, verify, write_state_dict
from merge_lib.checkpoints.tied import preferred_name
from merge_lib.errors import CheckpointError

EMBEDDING = torch.arange(12.0).reshape(6, 2)
TENSORS = {
    "lm_head.weight": EMBEDDING.clone(),
    "model.embed_tokens.weight": EMBEDDING,
    "other.weight": EMBEDDING.clone()[:5],
    "a.bias": torch.ones(6),
}


def names_of(folder, tensors, config):
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    with open_checkpoint(folder) as reader:
        return reader.names


@pytest.mark.parametrize("wrap", [lambda part: part, lambda part: {"text_config": part}])
def test_a_tied_tensor_is_there_once(wrap, tmp_path):
    config = wrap({"tie_word_embeddings": True, "vocab_size": 6})
    kept = ("a.bias", "model.embed_tokens.weight", "other.weight")
    assert names_of(tmp_path, TENSORS, config) == kept
    with open_checkpoint(tmp_path) as reader:
        assert reader.tied == {"lm_head.weight": "model.embed_tokens.weight"}
        assert reader.location("model.embed_tokens.weight").size_bytes == 48
    without = {name: tensor for name, tensor in TENSORS.items() if name != "lm_head.weight"}
    assert names_of(tmp_path, without, config) == kept


@pytest.mark.parametrize(
    ("config", "head"),
    [
        ({"tie_word_embeddings": False, "vocab_size": 6}, EMBEDDING),
        ({"vocab_size": 6}, EMBEDDING),
        ({"tie_word_embeddings": True, "vocab_size": 7}, EMBEDDING),
        ({"tie_word_embeddings": True, "vocab_size": 6}, EMBEDDING + 1),
    ],
)
def test_what_is_not_tied_stays(config, head, tmp_path):
    tensors = {**TENSORS, "lm_head.weight": head.clone()}
    assert names_of(tmp_path, tensors, config) == tuple(sorted(TENSORS))


def test_a_difference_behind_the_first_piece_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr("merge_lib.checkpoints.tied.PIECE_BYTES", 16)
    head = EMBEDDING.clone()
    config = {"tie_word_embeddings": True, "vocab_size": 6}
    assert "lm_head.weight" not in names_of(tmp_path, {**TENSORS, "lm_head.weight": head}, config)
    head[5, 1] += 1
    assert "lm_head.weight" in names_of(tmp_path, {**TENSORS, "lm_head.weight": head}, config)


def test_a_recorded_digest_is_not_compared_with_what_is_hidden(tmp_path):
    write_state_dict(tmp_path / "model.safetensors", TENSORS, lineage={"kind": "test"})
    assert verify(tmp_path).matches
    (tmp_path / "config.json").write_text(json.dumps({"tie_word_embeddings": True, "vocab_size": 6}))
    assert verify(tmp_path).recorded is None


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (("lm_head.weight", "shared.weight", "decoder.embed_tokens.weight"), "shared.weight"),
        (("lm_head.weight", "model.embed_tokens.weight"), "model.embed_tokens.weight"),
        (("lm_head.weight", "transformer.wte.weight"), "transformer.wte.weight"),
        (("z", "b"), "b"),
    ],
)
def test_the_name_to_keep(names, kept):
    assert preferred_name(names) == kept


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_configuration_that_cannot_be_read(text, tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read: .* is a JSON object"):
        names_of(tmp_path, TENSORS, text)
