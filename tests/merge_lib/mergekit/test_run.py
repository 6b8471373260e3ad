"""A recipe from its file to a folder that transformers loads."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from functools import partial

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from merge_lib.checkpoints import checkpoint_digest, open_checkpoint, read_state_dict
from merge_lib.errors import CheckpointMismatchError, MethodInputError, SpecError
from merge_lib.files.folders import read_stored
from merge_lib.files.remembered import known_digests
from merge_lib.mergekit import arithmetic as mergekit_arithmetic
from merge_lib.mergekit import merge_mergekit, parse_recipe, plan_recipe
from merge_lib.mergekit.arithmetic import merge_tensor
from merge_lib.streaming.companions import adapt_config
from merge_lib.streaming.executing import Executor
from merge_lib.streaming.planning import ConfigChange
from merge_lib.streaming.preflight import examine_plan
from merge_lib.streaming.run import MergeOptions
from merge_lib.streaming.target import JOURNAL

LINEAR = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n"
DARE = """
merge_method: dare_ties
base_model: base
models: [{model: a}, {model: b, parameters: {density: [0.2, 0.7]}}]
parameters: {weight: 0.5, density: 0.5}
"""
KARCHER = "merge_method: karcher\nmodels: [{model: a}, {model: b}]\n"
STACKED = """
merge_method: passthrough
dtype: bfloat16
slices:
- sources: [{model: a, layer_range: [0, 2]}]
- sources: [{model: b, layer_range: [0, 3]}]
"""


@pytest.fixture
def merge(llamas, tmp_path):
    def run(text, out="out", models=(), **options):
        recipe = tmp_path / "recipe.yml"
        recipe.write_text(text)
        names = {name: llamas / name for name in ("base", "a", "b")} | dict(models)
        return merge_mergekit(recipe, tmp_path / out, models=names, **options)

    return run


def load(folder):
    """The model of a folder, of which no weight is missing or superfluous."""
    model, told = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model


def tensors_of(folder):
    with open_checkpoint(folder) as reader:
        return {name: reader.tensor(name) for name in reader.names}


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_linear_merge_loads_and_is_the_mean(merge, llamas):
    done = merge(LINEAR)
    merged, a, b = (tensors_of(path) for path in (done.path, llamas / "a", llamas / "b"))
    assert set(merged) == set(a)
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, (a[name] + b[name]) / 2)
    model = load(done.path)
    torch.testing.assert_close(model.lm_head.weight.detach(), merged["lm_head.weight"])
    assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()


def test_slices_change_the_number_of_layers(merge, llamas):
    done = merge(STACKED)
    model = load(done.path)
    assert (model.config.num_hidden_layers, len(model.model.layers), model.dtype) == (5, 5, torch.bfloat16)
    b = load_file(llamas / "b" / "model.safetensors")["model.layers.2.mlp.up_proj.weight"]
    assert torch.equal(model.model.layers[4].mlp.up_proj.weight, b.bfloat16())
    assert (done.path / "tokenizer.json").is_file()


def test_the_manifest_has_every_tensor_of_models_whose_layers_move(merge, llamas, tmp_path):
    done = merge(STACKED)
    manifest = json.loads((done.path / "merge_manifest.json").read_text())
    assert (manifest["variant"], manifest["base"]) == ("mergekit", None)
    assert manifest["recipe"] == {
        "merge_method": "passthrough",
        "dtype": "bfloat16",
        "slices": [
            {"sources": [{"model": "a", "layer_range": [0, 2]}]},
            {"sources": [{"model": "b", "layer_range": [0, 3]}]},
        ],
    }
    assert [entry["name"] for entry in manifest["experts"]] == ["a", "b"]
    for entry in manifest["experts"]:
        assert entry["digest"] == checkpoint_digest(llamas / entry["name"] / "model.safetensors")
    assert manifest["output"]["digest"] == done.digest == checkpoint_digest(done.path / "model.safetensors")
    assert str(tmp_path) not in json.dumps(manifest)
    card = (done.path / "README.md").read_text()
    assert 'merge_method: "passthrough"' in card
    assert done.digest in card


def test_tensors_of_layers_that_move_are_remembered_under_their_own_names(merge, copied):
    for name in ("a", "b"):
        os.utime(copied / name / "model.safetensors", (0, 0))
    done = merge(STACKED, models={name: copied / name for name in ("a", "b")})
    manifest = json.loads((done.path / "merge_manifest.json").read_text())
    for entry in manifest["experts"]:
        told = {name: digest.split()[-1] for name, digest in entry["tensors"].items()}
        assert known_digests(read_stored(copied / entry["name"])) == told


def test_a_layer_may_be_used_twice(merge, llamas):
    done = merge(STACKED.replace("model: b, layer_range: [0, 3]", "model: a, layer_range: [1, 2]"))
    merged, a = tensors_of(done.path), tensors_of(llamas / "a")
    for layer in (1, 2):
        rest = "self_attn.q_proj.weight"
        assert torch.equal(merged[f"model.layers.{layer}.{rest}"], a[f"model.layers.1.{rest}"].bfloat16())
    (entry,) = json.loads((done.path / "merge_manifest.json").read_text())["experts"]
    assert entry["digest"] == checkpoint_digest(llamas / "a" / "model.safetensors")


def test_the_recipe_of_the_manifest_gives_the_same_bytes(merge):
    text = DARE + "dtype: float32\nout_dtype: bfloat16\n"
    done = merge(text, seed=3)
    manifest = json.loads((done.path / "merge_manifest.json").read_text())
    assert (manifest["seed"], manifest["base"]["name"]) == (3, "base")
    again = merge(json.dumps(manifest["recipe"]), "again", seed=3)
    assert files_of(again.path) == files_of(done.path)
    assert "with `--seed 3`" in (done.path / "README.md").read_text()


def test_the_dtypes_of_arithmetic_and_output_are_the_recipes(merge):
    done = merge(LINEAR + "dtype: float32\nout_dtype: bfloat16\n")
    assert {tensor.dtype for tensor in tensors_of(done.path).values()} == {torch.bfloat16}
    config = json.loads((done.path / "config.json").read_text())
    assert {config[key] for key in ("dtype", "torch_dtype") if key in config} == {"bfloat16"}


def test_a_random_merge_follows_its_seed(merge):
    first, again, other = (merge(DARE, str(place), seed=seed).digest for place, seed in enumerate((1, 1, 2)))
    assert first == again != other


def test_shards_change_no_tensor(merge):
    whole = merge(DARE)
    sharded = merge(DARE, "sharded", options=MergeOptions(max_shard_bytes=2000))
    assert len(list(sharded.path.glob("model-*.safetensors"))) > 2
    assert sharded.digest == whole.digest
    one, other = tensors_of(whole.path), tensors_of(sharded.path)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    load(sharded.path)


def test_one_file(merge, tmp_path):
    whole, file = merge(STACKED), merge(STACKED, "m.safetensors")
    assert checkpoint_digest(tmp_path / "m.safetensors") == whole.digest == file.digest
    assert (tmp_path / "m.merge_manifest.json").exists()


class StoppedError(Exception):
    pass


@pytest.fixture
def stop_after(monkeypatch):
    """Stops merges after so many tensors, on either route."""

    @contextmanager
    def stopping(tensors):
        done = []

        def counted(act):
            def wrapped(*given, **named):
                if len(done) == tensors:
                    raise StoppedError
                done.append(given)
                return act(*given, **named)

            return wrapped

        with monkeypatch.context() as patch:
            patch.setattr(mergekit_arithmetic, "merge_tensor", counted(merge_tensor))
            patch.setattr(Executor, "_do", counted(Executor._do))
            yield

    return stopping


@pytest.mark.parametrize("finished", [0, 1, 11])
@pytest.mark.parametrize("recipe", [DARE, KARCHER])
def test_an_interrupted_merge_continues_to_the_same_bytes(finished, recipe, merge, tmp_path, stop_after):
    options = MergeOptions(max_shard_bytes=2000, threads=1)
    whole = merge(recipe, "whole", options=options)
    with stop_after(finished), pytest.raises(StoppedError):
        merge(recipe, "again", options=options)
    assert (tmp_path / "again" / JOURNAL).exists()
    assert not list((tmp_path / "again").glob("*.safetensors"))
    again = merge(recipe, "again", options=options)
    assert again.continued == finished
    assert files_of(again.path) == files_of(whole.path)


def test_a_changed_recipe_starts_anew(merge, stop_after):
    with stop_after(5), pytest.raises(StoppedError):
        merge(LINEAR)
    assert merge(LINEAR.replace("weight: 1", "weight: [1, 1.0]")).continued == 0


def test_an_adapter_is_folded_into_its_model(merge, copied, tmp_path):
    adapter = copied / "lora"
    adapter.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["o_proj"], "bias": "none"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    prefix = "base_model.model.model.layers.1.self_attn.o_proj"
    factors = {f"{prefix}.lora_A.weight": torch.ones(2, 8), f"{prefix}.lora_B.weight": torch.ones(8, 2)}
    save_file(factors, adapter / "adapter_model.safetensors")
    text = "merge_method: linear\nmodels: [{model: a+lora}]\nparameters: {weight: 1}\n"
    done = merge(text, models={"a": copied / "a", "lora": adapter})
    merged, model = tensors_of(done.path), tensors_of(copied / "a")
    name = "model.layers.1.self_attn.o_proj.weight"
    torch.testing.assert_close(merged.pop(name), model.pop(name) + 4)
    assert all(torch.equal(merged[name], model[name]) for name in model)
    load(done.path)
    manifest = json.loads((done.path / "merge_manifest.json").read_text())
    assert manifest["recipe"]["models"] == [{"model": "a+lora"}]


def test_scales_of_8_bit_weights_are_gone_from_the_configuration(tmp_path):
    for place, name in enumerate(("one", "two")):
        folder = tmp_path / name
        folder.mkdir()
        weight = torch.randn(128, 128, generator=torch.Generator().manual_seed(place))
        tensors = {"w.weight": weight.to(torch.float8_e4m3fn), "w.weight_scale_inv": torch.full((1, 1), 0.5)}
        save_file(tensors, folder / "model.safetensors")
        config = {"dtype": "bfloat16", "quantization_config": {"weight_block_size": [128, 128]}}
        (folder / "config.json").write_text(json.dumps(config))
    (tmp_path / "r.yml").write_text(LINEAR.replace("a}", "one}").replace("b}", "two}"))
    done = merge_mergekit(tmp_path / "r.yml", tmp_path / "out")
    assert json.loads((done.path / "config.json").read_text()) == {"dtype": "bfloat16"}
    one, two = (read_state_dict(tmp_path / name)["w.weight"] for name in ("one", "two"))
    torch.testing.assert_close(
        tensors_of(done.path)["w.weight"], ((one.float() + two.float()) / 2).bfloat16()
    )


def test_models_are_looked_for_beside_the_recipe_then_in_the_current_folder(copied, tmp_path, monkeypatch):
    (tmp_path / "work" / "b").mkdir(parents=True)
    (copied / "b").rename(tmp_path / "work" / "b")
    (copied / "r.yml").write_text(LINEAR)
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "work" / "a").mkdir()  # the recipe's folder comes first
    assert merge_mergekit(copied / "r.yml", tmp_path / "out").tensors == 30
    (copied / "r.yml").write_text(LINEAR.replace("a}", "org/a}").replace("b}", "org/b}"))
    with pytest.raises(SpecError, match="Model hub names are not fetched") as caught:
        merge_mergekit(copied / "r.yml", tmp_path / "out2")
    assert "Model 'org/a'" in str(caught.value)
    assert "Model 'org/b'" in str(caught.value)


def test_models_with_other_tokens_are_refused(merge, copied):
    other = json.dumps({"model": {"vocab": {"b": 0, "a": 1}}, "added_tokens": []})
    (copied / "b" / "tokenizer.json").write_text(other)
    with pytest.raises(CheckpointMismatchError, match="Rows of embeddings are merged by their number"):
        merge(LINEAR, models={"b": copied / "b"})


def test_a_preview_lists_every_problem_and_writes_nothing(copied, tmp_path):
    tensors = load_file(copied / "b" / "model.safetensors")
    tensors["model.norm.weight"] = torch.ones(9)
    tensors["extra"] = tensors.pop("lm_head.weight")
    save_file(tensors, copied / "b" / "model.safetensors")
    (copied / "b" / "tokenizer.json").write_text("{}")
    preview = examine_plan(partial(plan_recipe, parse_recipe(LINEAR), copied), tmp_path / "out")
    told = "\n".join(preview.problems)
    for part in (
        "'lm_head.weight' is missing in model 'b'",
        "'model.norm.weight' has shape (9,) in model 'b'",
        "'extra' is in model 'b' but not in model 'a'",
        "The tokens of b are not those of a",
    ):
        assert part in told
    assert not (tmp_path / "out").exists()


def test_tensors_of_other_kinds_are_refused(copied, tmp_path):
    for name, dtype in (("a", torch.float32), ("b", torch.int64)):
        tensors = load_file(copied / name / "model.safetensors")
        tensors["model.norm.weight"] = torch.ones(8, dtype=dtype)
        save_file(tensors, copied / name / "model.safetensors")
    with pytest.raises(CheckpointMismatchError, match=r"'model.norm.weight' is made of F32 and I64"):
        plan_recipe(parse_recipe(LINEAR), copied)


def test_whole_numbers_must_be_equal_in_all_models(merge, copied, tmp_path):
    for place, name in enumerate(("base", "a", "b")):
        tensors = load_file(copied / name / "model.safetensors")
        tensors["steps"] = torch.tensor([1, 0 if place else 2])
        save_file(tensors, copied / name / "model.safetensors")
    models = {name: copied / name for name in ("base", "a", "b")}
    assert torch.equal(tensors_of(merge(LINEAR, models=models).path)["steps"], torch.tensor([1, 0]))
    with pytest.raises(CheckpointMismatchError, match=r"'steps' .I64. differs between"):
        merge(DARE, "dare", models=models)


def test_weights_that_are_not_finite_are_refused_by_name(merge, llamas, tmp_path):
    bad = tmp_path / "bad.safetensors"
    tensors = load_file(llamas / "b" / "model.safetensors")
    tensors["lm_head.weight"][0, 0] = float("nan")
    save_file(tensors, bad)
    with pytest.raises(
        MethodInputError, match=r"Tensor 'lm_head.weight' of model 'b' has values that are NaN"
    ):
        merge(LINEAR, models={"b": bad})
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_the_output_may_not_be_an_input(llamas, tmp_path):
    recipe = tmp_path / "recipe.yml"
    recipe.write_text("merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 1}\n")
    with pytest.raises(SpecError, match="is or holds an input"):
        merge_mergekit(recipe, llamas / "a", models={"a": llamas / "a"})


def test_equal_names_of_models_are_told_apart(copied):
    (copied / "sub").mkdir()
    (copied / "b").rename(copied / "sub" / "a")
    plan = plan_recipe(parse_recipe(LINEAR.replace("b}", "sub/a}")), copied)
    assert plan.recipe["models"] == [{"model": "a"}, {"model": "a (2)"}]


def test_lists_over_layers_follow_the_layers():
    config = {"n_layer": 2, "layer_types": ["full", "sliding"], "torch_dtype": "float32"}
    assert adapt_config(config, ConfigChange("float16", (0, 1, 1))) == {
        "n_layer": 3,
        "layer_types": ["full", "sliding", "sliding"],
        "torch_dtype": "float16",
    }


def test_planning_imports_no_torch(llamas, tmp_path):
    code = (
        "import sys; from pathlib import Path; from merge_lib.mergekit import parse_recipe, plan_recipe\n"
        "from merge_lib.streaming.preflight import examine_plan\n"
        f"make = lambda: plan_recipe(parse_recipe({DARE!r}), Path({str(llamas)!r}))\n"
        f"assert not examine_plan(make, Path({str(tmp_path / 'out')!r})).problems\n"
        "print('torch' in sys.modules, 'numba' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["False", "False"]
