"""`mergeline merge` as a user types it."""

import hashlib
import json

import pytest
import torch
from typer.testing import CliRunner

from flows.cli import make_app
from flows.commands.merge import parse_size
from flows.recipe import load_any_recipe, load_recipe
from merge_lib.checkpoints import read_state_dict, write_state_dict
from merge_lib.errors import SpecError


@pytest.fixture
def recipe(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for name in ("base", "one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        tensors = {"layer.weight": torch.randn(40, 30, generator=generator).to(torch.bfloat16)}
        write_state_dict(folder / "model.safetensors", tensors, lineage={})
    (tmp_path / "base" / "config.json").write_text('{"model_type": "llama", "dtype": "bfloat16"}')
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    (tmp_path / "base" / "optimizer.pt").write_text("not for us")
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "method: task_arithmetic\nparams: {scale: 0.5}\nbase: base\nexperts: [one, two]\ndtype: float32\n"
    )
    return path


def test_a_merge_is_a_folder_with_all_that_belongs_to_it(recipe, tmp_path):
    result = CliRunner().invoke(make_app(), ["merge", str(recipe), "--out", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["tensors"], told["arithmetic"]) == (1, "kernels")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["README.md", "config.json", "merge_manifest.json", "model.safetensors", "tokenizer.json"]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"
    card = (tmp_path / "out" / "README.md").read_text()
    assert told["digest"] in card
    assert "method: task_arithmetic" in card
    models = [read_state_dict(tmp_path / name)["layer.weight"].float() for name in ("base", "one", "two")]
    merged = read_state_dict(tmp_path / "out")["layer.weight"]
    assert torch.equal(merged, models[0] + 0.5 * ((models[1] - models[0]) + (models[2] - models[0])))


def test_hashes_of_files_are_recorded_on_request(recipe, tmp_path):
    command = ["merge", str(recipe), "--file-hash", "md5", "--file-hash", "sha256", "--out"]
    for out in ("out", "out.safetensors"):
        result = CliRunner().invoke(make_app(), [*command, str(tmp_path / out)])
        assert result.exit_code == 0, result.output
    for told, weights in (
        (tmp_path / "out" / "merge_manifest.json", tmp_path / "out" / "model.safetensors"),
        (tmp_path / "out.merge_manifest.json", tmp_path / "out.safetensors"),
    ):
        manifest = json.loads(told.read_text())
        assert manifest["output"]["files"] == {weights.name: hashes_of(weights)}
        for entry in (manifest["base"], *manifest["experts"]):
            path = tmp_path / entry["name"] / "model.safetensors"
            assert entry["files"] == {"model.safetensors": hashes_of(path)}


def hashes_of(path):
    return {kind: hashlib.new(kind, path.read_bytes()).hexdigest() for kind in ("sha256", "md5")}


def test_a_hash_that_is_not_known_is_refused_before_anything_is_written(recipe, tmp_path):
    result = CliRunner().invoke(
        make_app(), ["merge", str(recipe), "--file-hash", "crc", "--out", str(tmp_path / "out")]
    )
    assert isinstance(result.exception, SpecError)
    assert "'crc' is not a hash of files. Known: sha256, md5." in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_writes_nothing(recipe, tmp_path):
    command = [
        "merge",
        str(recipe),
        "--out",
        str(tmp_path / "out"),
        "--dry-run",
        "--json",
        "--memory",
        "512M",
    ]
    result = CliRunner().invoke(make_app(), command)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["problems"], told["read_bytes"], told["parameters"]) == ([], 7200, 1200)
    assert not (tmp_path / "out").exists()
    shown = CliRunner().invoke(make_app(), command[:5])
    assert "1 tensors, 1 of them merged" in shown.output
    assert "Nothing was written." in shown.output


def test_a_dry_run_names_the_device(recipe, tmp_path):
    command = ["merge", str(recipe), "--out", str(tmp_path / "out"), "--dry-run", "--device"]
    shown = CliRunner().invoke(make_app(), [*command, "torch:cpu"])
    assert shown.exit_code == 0, shown.output
    assert "route     torch on the CPU" in shown.output
    refused = CliRunner().invoke(make_app(), [*command, "gpu"])
    assert refused.exit_code == 2
    assert "Device 'gpu' is not known. Give cpu, cuda, or cuda:N" in refused.output


def test_a_dry_run_with_problems_fails(recipe, tmp_path):
    result = CliRunner().invoke(
        make_app(), ["merge", str(recipe), "--out", str(tmp_path / "base"), "--dry-run", "--json"]
    )
    assert result.exit_code == 2
    assert "is or holds an input" in json.loads(result.stdout)["problems"][0]


def test_a_recipe_can_equalise_task_vectors(recipe, tmp_path):
    plain = recipe.read_text()
    recipe.write_text(f"{plain}equalise: norms\n")
    command = ["merge", str(recipe), "--out", str(tmp_path / "out"), "--json"]
    result = CliRunner().invoke(make_app(), command)
    assert result.exit_code == 0, result.output
    manifest = json.loads((tmp_path / "out" / "merge_manifest.json").read_text())
    assert manifest["recipe"]["equalise"] == "norms"
    recipe.write_text(
        plain.replace("task_arithmetic", "linear").replace("{scale: 0.5}", "{}") + "equalise: norms\n"
    )
    with pytest.raises(SpecError, match="method 'linear' works on weights"):
        load_recipe(recipe)


def test_a_recipe_tells_every_error_with_its_line(recipe):
    recipe.write_text("method: ties\nparams: {densty: 0.2}\nexperts: []\nbase: base\nexclued: [x]\n")
    with pytest.raises(SpecError) as caught:
        load_recipe(recipe)
    assert f"{recipe}:3: experts:" in str(caught.value)
    assert f"{recipe}:5: exclued: unknown key 'exclued'. Did you mean 'exclude'?" in str(caught.value)
    recipe.write_text("method: ties\nparams: {densty: 0.2}\nexperts: [one]\nbase: base\n")
    with pytest.raises(
        SpecError, match=r"recipe.yaml:2: params.densty: unknown key 'densty'. Did you mean 'density'"
    ):
        load_recipe(recipe)


def test_sizes():
    assert [parse_size(text) for text in ("512M", "5GB", "2GiB", "1000", "1.5 k")] == [
        512 << 20, 5 * 10**9, 2 << 30, 1000, 1536,
    ]  # fmt: skip
    for text in ("", "much", "5 TB", "0", "-1G"):
        with pytest.raises(SpecError, match="is not a size"):
            parse_size(text)


@pytest.fixture
def mergekit_recipe(recipe):
    recipe.write_text(
        "merge_method: ties\nbase_model: base\nmodels: [{model: one}, {model: two}]\n"
        "parameters: {weight: 0.5, density: 0.5}\ndtype: float32\nout_dtype: bfloat16\n"
    )
    return recipe


def merge_with(recipe, *options):
    return CliRunner().invoke(
        make_app(), ["merge", str(recipe), "--out", str(recipe.parent / "out"), *options]
    )


def test_a_recipe_of_mergekit_is_taken_as_it_is(mergekit_recipe, tmp_path):
    shown = merge_with(mergekit_recipe, "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert "1 tensors, 1 of them merged" in shown.output
    result = merge_with(mergekit_recipe, "--json", "--max-shard-size", "1M")
    assert result.exit_code == 0, result.output
    out = tmp_path / "out"
    names = sorted(path.name for path in out.iterdir())
    assert names == ["README.md", "config.json", "merge_manifest.json", "model.safetensors", "tokenizer.json"]
    manifest = json.loads((out / "merge_manifest.json").read_text())
    assert (manifest["variant"], manifest["recipe"]["merge_method"]) == ("mergekit", "ties")
    assert manifest["output"]["digest"] == json.loads(result.stdout)["digest"]
    assert read_state_dict(out)["layer.weight"].dtype == torch.bfloat16


def test_a_dry_run_of_mergekits_recipe_tells_every_missing_model(mergekit_recipe):
    mergekit_recipe.write_text(
        mergekit_recipe.read_text().replace("one", "org/model-7b").replace("two", "three")
    )
    result = merge_with(mergekit_recipe, "--dry-run", "--json")
    assert result.exit_code == 2
    first, second = json.loads(result.stdout)["problems"]
    assert "Model 'org/model-7b' is neither in the recipe's folder" in first
    assert "Model 'three'" in second
    assert "Model hub names are not fetched" in second


def test_a_recipe_without_a_method_names_both_keys(recipe):
    recipe.write_text("models: [{model: one}]\n")
    with pytest.raises(
        SpecError, match="neither `method`, as our recipes, nor `merge_method`, as mergekit's"
    ):
        load_any_recipe(recipe)


def test_a_seed_is_for_the_random_methods_of_mergekit(recipe, mergekit_recipe):
    with pytest.raises(SpecError, match="'ties' draws nothing at random"):
        load_any_recipe(mergekit_recipe, 3)
    mergekit_recipe.write_text(mergekit_recipe.read_text().replace("ties", "dare_ties"))
    assert load_any_recipe(mergekit_recipe, 3).plan().seed == 3
    recipe.write_text("method: average\nexperts: [one, two]\n")
    with pytest.raises(SpecError, match="Write `seed: 3` in the recipe"):
        load_any_recipe(recipe, 3)
