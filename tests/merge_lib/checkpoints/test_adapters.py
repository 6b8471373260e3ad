"""LoRA adapters folded into their base, against peft itself."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import merge_lib
from merge_lib.checkpoints import open_checkpoint, read_state_dict, write_state_dict
from merge_lib.checkpoints.spellings import match_spellings
from merge_lib.errors import CheckpointError, CheckpointMismatchError

CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["x"]}
A, B = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]), torch.tensor([[1.0, 0.0], [1.0, 3.0]])
UPDATE = torch.tensor([[1.0, 0.0, 2.0], [1.0, 3.0, 2.0]])  # B A
BASE = torch.full((2, 3), 10.0)


def write_adapter(folder: Path, tensors: dict, **fields) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **fields}))
    save_file(
        {f"base_model.model.{name}": t.clone() for name, t in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    return folder


def factors(module="x", a=A, b=B):
    return {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}


@pytest.fixture
def base(tmp_path):
    return write_state_dict(tmp_path / "base", {"x.weight": BASE, "y": BASE[0]}, lineage={"kind": "t"}).path


@pytest.mark.parametrize(
    "options",
    [
        {"r": 3},
        {"r": 4, "use_rslora": True, "lora_alpha": 2, "bias": "lora_only"},
        {"r": 4, "rank_pattern": {r"0\..*": 2}, "alpha_pattern": {r"1\..*": 3}, "bias": "all"},
    ],
)
def test_it_is_what_peft_makes(tiny, options, make_adapter, tmp_path):
    base = tiny.save(tiny.make(0), tmp_path / "base", save_original_format=False)
    merged = make_adapter(
        tiny.load(base), tmp_path / "adapter", seed=1, target_modules=[tiny.query], **options
    )
    held = merged.state_dict()
    state = read_state_dict(tmp_path / "adapter", base=base)
    changed = 0
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, held[name])
        changed += not torch.equal(tensor, read_state_dict(base)[name])
    assert changed >= 2


@pytest.mark.parametrize("is_original", [True, False])
def test_a_base_may_be_stored_under_older_names(is_original, tiny_vit, make_adapter, tmp_path):
    """transformers 5 stores a ViT under the names of transformers 4, and holds it under others."""
    model = tiny_vit.make(0)
    base = tiny_vit.save(model, tmp_path / "base", save_original_format=is_original)
    options = {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"]}
    options |= {"modules_to_save": ["layernorm_after", "classifier"], "r": 3}
    merged = make_adapter(tiny_vit.load(base), tmp_path / "adapter", seed=1, **options)
    tiny_vit.save(merged, tmp_path / "expected", save_original_format=is_original)
    expected, state = read_state_dict(tmp_path / "expected"), read_state_dict(tmp_path / "adapter", base=base)
    assert list(state) == list(expected)
    assert any(".encoder.layer." in name for name in state) == is_original
    before = read_state_dict(base)
    changed = []
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, expected[name])
        changed += [] if torch.equal(tensor, before[name]) else [name]
    assert len(changed) == 2 * (6 + 2) + 2  # of two layers: six matrices and a norm; the head


def test_a_name_that_could_be_two_tensors_is_not_guessed(tmp_path):
    tensors = {"encoder.layer.0.output.dense.weight": BASE, "encoder.layers.0.output.dense.weight": BASE}
    base = write_state_dict(tmp_path / "base", tensors, lineage={}).path
    adapter = write_adapter(tmp_path / "a", factors("layers.0.mlp.fc2"))
    with pytest.raises(CheckpointMismatchError, match=r"does not have.*\n.*`save_original_format=False`"):
        open_checkpoint(adapter, base=base)
    one = write_state_dict(tmp_path / "one", {"layers.0.mlp.fc2.weight": BASE}, lineage={}).path
    both = write_adapter(
        tmp_path / "b", {**factors("layers.0.mlp.fc2"), **factors("encoder.layer.0.output.dense")}
    )
    with pytest.raises(
        CheckpointMismatchError, match=r"changes 'layers\.0\.mlp\.fc2\.weight' .* several names"
    ):
        open_checkpoint(both, base=one)


@pytest.mark.parametrize(
    ("stored", "held"),
    [
        ("vit.encoder.layer.0.attention.output.dense.weight", "vit.layers.0.attention.o_proj.weight"),
        ("vit.encoder.layer.1.output.dense.bias", "vit.layers.1.mlp.fc2.bias"),
        (
            "s.encoder.layers.0.blocks.0.attention.self.key.bias",
            "s.encoder.layers.0.blocks.0.attention.k_proj.bias",
        ),
        (
            "language_model.model.layers.0.mlp.up_proj.weight",
            "model.language_model.layers.0.mlp.up_proj.weight",
        ),
        (
            "dinov2.encoder.layer.0.attention.attention.value.bias",
            "dinov2.encoder.layer.0.attention.v_proj.bias",
        ),
    ],
)
def test_stored_and_held_names_of_transformers(stored, held):
    assert match_spellings([held], [stored, "other"]) == {held: stored}
    assert match_spellings([stored], [held, "other"]) == {stored: held}


def test_a_name_is_itself_before_it_is_a_spelling():
    known = ["encoder.layer.0.intermediate.dense.weight", "layers.0.mlp.fc1.weight"]
    assert match_spellings(known, known) == {name: name for name in known}
    assert match_spellings(["decoder.layers.0.mlp.fc1.weight"], known) == {}


def test_modules_to_save_and_embeddings_are_what_peft_makes(untied_llama, make_adapter, tmp_path):
    base = untied_llama.save(untied_llama.make(0), tmp_path / "base")
    options = {"target_modules": ["embed_tokens", "v_proj"], "modules_to_save": ["norm"]}
    merged = make_adapter(untied_llama.load(base), tmp_path / "adapter", seed=1, **options)
    state, before = read_state_dict(tmp_path / "adapter", base=base), read_state_dict(base)
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, merged.state_dict()[name])
    for name in ("model.embed_tokens.weight", "model.norm.weight"):
        assert not torch.equal(state[name], before[name])


@pytest.mark.parametrize(
    ("fields", "scale"),
    [
        ({}, 2.0),
        ({"use_rslora": True}, 4 / 2**0.5),
        ({"alpha_pattern": {"x": 1}}, 0.5),
        ({"alpha_pattern": {"z": 1}}, 2),
    ],
)
def test_worked_by_hand(fields, scale, base, tmp_path):
    path = write_adapter(tmp_path / "a", factors(), **fields)
    with open_checkpoint(path, base=base) as reader:
        torch.testing.assert_close(reader.tensor("x.weight"), BASE + scale * UPDATE)
        assert (reader.names, reader.label, reader.lineage) == (("x.weight", "y"), str(path), {})
        assert reader.location("x.weight") is None
        assert reader.location("y").path == base
        assert torch.equal(reader.tensor("y"), BASE[0])


def test_a_base_with_transposed_layers(tmp_path):
    base = write_state_dict(tmp_path / "b", {"x.weight": BASE.T.contiguous()}, lineage={}).path
    state = read_state_dict(write_adapter(tmp_path / "a", factors(), fan_in_fan_out=True), base=base)
    assert torch.equal(state["x.weight"], (BASE + 2 * UPDATE).T)


@pytest.mark.parametrize("is_transposed", [False, True])
def test_square_layers_are_turned_as_the_configuration_says(is_transposed, tmp_path):
    base = write_state_dict(tmp_path / "b", {"x.weight": torch.zeros(2, 2)}, lineage={}).path
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [0.0]])
    path = write_adapter(tmp_path / "a", factors(a=a, b=b), r=1, lora_alpha=1, fan_in_fan_out=is_transposed)
    expected = [[1.0, 0.0], [2.0, 0.0]] if is_transposed else [[1.0, 2.0], [0.0, 0.0]]
    assert read_state_dict(path, base=base)["x.weight"].tolist() == expected


def test_convolutions(tmp_path):
    kernel = torch.zeros(2, 3, 2, 2)
    base = write_state_dict(tmp_path / "b", {"x.weight": kernel}, lineage={}).path
    a = torch.arange(24.0).reshape(2, 3, 2, 2)
    state = read_state_dict(write_adapter(tmp_path / "a", factors(a=a, b=B[..., None, None])), base=base)
    assert torch.equal(state["x.weight"], 2 * torch.einsum("or,rikl->oikl", B, a))


def test_the_update_is_not_rounded_to_the_base_before_merging(tmp_path):
    base = write_state_dict(tmp_path / "b", {"x.weight": BASE.bfloat16()}, lineage={}).path
    path = write_adapter(tmp_path / "a", factors(), lora_alpha=1 / 512)  # too small for 8 bits beside 10
    spec = merge_lib.MergeSpec(
        method="task_arithmetic", base=base, experts=(path,), params={"scale": 1024.0}, dtype="float32"
    )
    merged = read_state_dict(merge_lib.merge_checkpoints(spec, tmp_path / "out").path)
    assert torch.equal(merged["x.weight"], BASE + UPDATE)
    assert read_state_dict(path, base=base)["x.weight"].dtype == torch.bfloat16


def test_merging_adapters_is_merging_the_models_they_make(base, tmp_path):
    paths, models = [], []
    for i in range(2):
        paths.append(write_adapter(tmp_path / f"a{i}", factors(b=B + i)))
        models.append(
            write_state_dict(tmp_path / f"m{i}", read_state_dict(paths[i], base=base), lineage={}).path
        )
    for method in ("average", "ties", "dare", "magmax"):
        outs = []
        for kind, experts in (("a", paths), ("m", models)):
            spec = merge_lib.MergeSpec(method=method, base=base, experts=tuple(experts))
            outs.append(merge_lib.merge_checkpoints(spec, tmp_path / f"{method}{kind}").digest)
        assert outs[0] == outs[1]


def test_an_adapter_needs_its_base(tmp_path):
    path = write_adapter(tmp_path / "a", factors())
    with pytest.raises(CheckpointError, match=r"is a LoRA adapter, .* Give the `base`, or merge"):
        open_checkpoint(path)


def test_everything_that_does_not_fit_the_base_is_told(base, tmp_path):
    tensors = {**factors("xx"), **factors(a=A[:, :2]), "y": BASE, "head.weight": BASE}
    with pytest.raises(CheckpointMismatchError) as caught:
        open_checkpoint(write_adapter(tmp_path / "a", tensors), base=base)
    message = str(caught.value)
    assert "changes tensor 'xx.weight', which base" in message
    assert "the nearest name is 'x.weight'" in message
    assert "Tensor 'x.weight' has shape (2, 3) in base" in message
    assert "has factors (2, 2) · (2, 2) for it" in message
    assert "Tensor 'y' has shape (3,) in base" in message
    assert "changes tensor 'head.weight'" in message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "LOHA"}, "`peft_type` is 'LOHA'"),
        (
            {"use_dora": True, "layer_replication": [[0, 2]]},
            r"`layer_replication` is \[\[0, 2\]\]; `use_dora` is True",
        ),
        ({"trainable_token_indices": [3]}, "`trainable_token_indices`"),
        ({"tomorrows_idea": True}, "`tomorrows_idea` is True"),
        ({"init_lora_weights": "pissa"}, "`init_lora_weights` is 'pissa', which changes the base"),
        ({"r": 0, "lora_alpha": "x"}, "`r` is 0 and not a positive.*`lora_alpha` is 'x'"),
        ({"rank_pattern": {"(": 3}}, "`rank_pattern` is"),
    ],
)
def test_what_is_not_plain_lora_is_refused_by_name(fields, message, base, tmp_path):
    with pytest.raises(CheckpointError, match=f"{message}.*Only plain LoRA adapters"):
        open_checkpoint(write_adapter(tmp_path / "a", factors(), **fields), base=base)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"x.lora_A.weight": A},
            r"Factor 'base_model\.model\.x\.lora_A\.weight' of .* without its other half",
        ),
        ({**factors(), "x.lora_magnitude_vector.weight": A}, "is no factor of plain LoRA"),
        (factors(a=A[:1]), "have shapes .* gives rank 2"),
        ({}, "has no tensors"),
    ],
)
def test_files_that_are_no_plain_lora(tensors, message, base, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(write_adapter(tmp_path / "a", tensors), base=base)


def test_a_configuration_that_cannot_be_read(base, tmp_path):
    path = write_adapter(tmp_path / "a", factors())
    (path / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="it cannot be read"):
        open_checkpoint(path, base=base)


def test_an_adapter_beside_a_model(base, tmp_path):
    path = write_adapter(tmp_path / "a", factors())
    save_file({"x": A}, path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"has both an adapter"):
        open_checkpoint(path, base=base)


def test_a_pickled_adapter(base, tmp_path):
    path = write_adapter(tmp_path / "a", factors())
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="Run: mergeline convert"):
        open_checkpoint(path, base=base)


def test_an_adapter_may_not_lead_out_of_its_folder(base, tmp_path):
    path = write_adapter(tmp_path / "a", factors())
    (path / "adapter_model.safetensors").rename(tmp_path / "elsewhere")
    (path / "adapter_model.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="outside of its folder"):
        open_checkpoint(path, base=base)


def test_names_must_be_pefts(base, tmp_path):
    path = write_adapter(tmp_path / "a", {})
    save_file({"x.lora_A.weight": A}, path / "adapter_model.safetensors")
    assert load_file(path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"is not named 'base_model\.model"):
        open_checkpoint(path, base=base)
