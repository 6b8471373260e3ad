"""A recipe from its file to a folder that transformers loads."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from merge_lib.errors import CheckpointMismatchError, MethodInputError, SpecError
from merge_lib.mergekit import merge_mergekit
from merge_lib.mergekit.folder import adapt_config

TOKENIZER = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": []}


@pytest.fixture(scope="module")
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
def merge(llamas, tmp_path):
    def run(text, **options):
        recipe = tmp_path / "recipe.yml"
        recipe.write_text(text)
        names = {name: llamas / name for name in ("base", "a", "b")}
        return merge_mergekit(
            recipe, tmp_path / "out", models={**names, **options.pop("models", {})}, **options
        )

    return run


def test_a_linear_merge_loads_and_is_the_mean(merge, llamas):
    report = merge("merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n")
    merged, a, b = (load_file(p) for p in (report.path, *(llamas / n / "model.safetensors" for n in "ab")))
    assert set(merged) == set(a)
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, (a[name] + b[name]) / 2)
    model = transformers.AutoModelForCausalLM.from_pretrained(report.path.parent)
    torch.testing.assert_close(model.lm_head.weight.detach(), merged["lm_head.weight"])
    assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()


def test_slices_change_the_number_of_layers(merge, llamas):
    report = merge("""
merge_method: passthrough
dtype: bfloat16
slices:
- sources: [{model: a, layer_range: [0, 2]}]
- sources: [{model: b, layer_range: [0, 3]}]
""")
    model = transformers.AutoModelForCausalLM.from_pretrained(report.path.parent)
    assert (model.config.num_hidden_layers, len(model.model.layers), model.dtype) == (5, 5, torch.bfloat16)
    b = load_file(llamas / "b" / "model.safetensors")["model.layers.2.mlp.up_proj.weight"]
    assert torch.equal(model.model.layers[4].mlp.up_proj.weight, b.bfloat16())
    assert (report.path.parent / "tokenizer.json").is_file()


def test_the_dtypes_of_arithmetic_and_output_are_the_recipes(merge):
    text = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n"
    report = merge(text + "dtype: float32\nout_dtype: bfloat16\n")
    assert {tensor.dtype for tensor in load_file(report.path).values()} == {torch.bfloat16}
    config = json.loads((report.path.parent / "config.json").read_text())
    assert {config[key] for key in ("dtype", "torch_dtype") if key in config} == {"bfloat16"}


def test_a_random_merge_follows_its_seed(merge):
    text = "merge_method: dare_ties\nbase_model: base\nmodels: [{model: a}, {model: b}]\n"
    text += "parameters: {weight: 0.5, density: 0.5}\n"
    first, again, other = (merge(text, seed=seed).digest for seed in (1, 1, 2))
    assert first == again != other


def test_models_with_other_tokens_are_refused(merge, llamas, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "model.safetensors"):
        (other / name).write_bytes((llamas / "b" / name).read_bytes())
    (other / "tokenizer.json").write_text(
        json.dumps({"model": {"vocab": {"b": 0, "a": 1}}, "added_tokens": []})
    )
    text = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n"
    with pytest.raises(CheckpointMismatchError, match="Rows of embeddings are merged by their number"):
        merge(text, models={"b": other})


def test_weights_that_are_not_finite_are_refused_by_name(merge, llamas, tmp_path):
    bad = tmp_path / "bad.safetensors"
    tensors = load_file(llamas / "b" / "model.safetensors")
    tensors["lm_head.weight"][0, 0] = float("nan")
    save_file(tensors, bad)
    text = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n"
    with pytest.raises(
        MethodInputError, match=r"Tensor 'lm_head.weight' of model 'b' has values that are NaN"
    ):
        merge(text, models={"b": bad})
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_the_output_may_not_be_an_input(llamas, tmp_path):
    recipe = tmp_path / "recipe.yml"
    recipe.write_text("merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 1}\n")
    with pytest.raises(SpecError, match="is a model of the recipe"):
        merge_mergekit(recipe, llamas / "a", models={"a": llamas / "a"})


def test_lists_over_layers_follow_the_layers(tmp_path):
    config = {"n_layer": 2, "layer_types": ["full", "sliding"], "torch_dtype": "float32"}
    layers = ((tmp_path, 0), (tmp_path, 1), (tmp_path, 1))
    assert adapt_config(config, dtype="float16", layers=layers) == {
        "n_layer": 3,
        "layer_types": ["full", "sliding", "sliding"],
        "torch_dtype": "float16",
    }
