"""`mergeline merge --many` as a user types it."""

import json

import pytest
import torch
from typer.testing import CliRunner

from flows.cli import make_app
from merge_lib.checkpoints import read_state_dict, write_state_dict
from merge_lib.errors import MergeError, SpecError

OURS = "method: {}\nbase: ../base\nexperts: [../one, ../two]\n"
MERGEKITS = (
    "merge_method: {}\nbase_model: ../base\nmodels: [{{model: ../one}}, {{model: ../two}}]\n"
    "parameters: {{weight: 0.5}}\ndtype: float32\n"
)
SHAPES = {"a": (40, 30), "b": (9000,)}


@pytest.fixture
def recipes(tmp_path):
    """A folder with a recipe of each kind, beside the base and two experts."""
    generator = torch.Generator().manual_seed(0)
    for name in ("base", "one", "two"):
        (tmp_path / name).mkdir()
        tensors = {key: torch.randn(shape, generator=generator) for key, shape in SHAPES.items()}
        write_state_dict(tmp_path / name / "model.safetensors", tensors, lineage={})
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "sum.yaml").write_text(OURS.format("task_arithmetic"))
    (folder / "mean.yml").write_text("method: average\nexperts: [../two, ../one]\n")
    (folder / "kit.yaml").write_text(MERGEKITS.format("dare_linear"))
    (folder / "notes.txt").write_text("not a recipe")
    return folder


def call(recipes, *options):
    return CliRunner().invoke(
        make_app(), ["merge", "--many", str(recipes), "--out", str(recipes.parent / "out"), *options]
    )


def test_each_recipe_becomes_the_folder_that_it_becomes_alone(recipes, tmp_path):
    for method in ("ties", "della", "breadcrumbs"):
        (recipes / f"{method}.yaml").write_text(MERGEKITS.format(method))
    for method in ("sce", "model_stock"):
        text = MERGEKITS.format(method).replace("parameters: {weight: 0.5}\n", "")
        (recipes / f"{method}.yaml").write_text(text)
    (recipes / "slerp.yaml").write_text(
        "merge_method: slerp\nbase_model: ../one\nmodels: [{model: ../one}, {model: ../two}]\n"
        "parameters: {t: 0.3}\ndtype: float32\n"
    )
    (recipes / "passed.yaml").write_text(
        "merge_method: passthrough\nmodels: [{model: ../two}]\ndtype: float32\n"
    )
    result = call(recipes, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    files = sorted(path.name for path in recipes.glob("*.y*ml"))
    assert [one["path"].rpartition("/")[2] for one in told] == [name.partition(".")[0] for name in files]
    assert {one["arithmetic"] for one in told} == {"kernels"}
    for one, recipe in zip(told, files, strict=True):
        alone = tmp_path / "alone" / recipe
        single = CliRunner().invoke(make_app(), ["merge", str(recipes / recipe), "--out", str(alone)])
        assert single.exit_code == 0, single.output
        many = tmp_path / "out" / one["path"].rpartition("/")[2]
        assert {path.name: path.read_bytes() for path in many.iterdir()} == {
            path.name: path.read_bytes() for path in alone.iterdir()
        }


def test_a_dry_run_counts_one_reading_and_writes_nothing(recipes, tmp_path):
    (recipes / "kit.yaml").write_text(MERGEKITS.format("task_arithmetic"))
    result = call(recipes, "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    size = 4 * (40 * 30 + 9000)
    assert (told["problems"], told["read_bytes"]) == ([], 3 * size)
    assert sum(one["read_bytes"] for one in told["previews"].values()) == 8 * size
    assert told["write_bytes"] > 3 * size
    assert not (tmp_path / "out").exists()
    shown = call(recipes, "--dry-run")
    assert "GB by all together" in shown.output
    assert "Nothing was written." in shown.output


def test_a_dry_run_tells_the_problems_of_all_recipes(recipes):
    (recipes / "sum.yaml").write_text("method: task_arithmetic\nbase: ../base\nexperts: [../none]\n")
    (recipes / "mean.yml").write_text("method: avrage\nexperts: [../one]\n")
    result = call(recipes, "--dry-run", "--json")
    assert result.exit_code == 2
    problems = "\n".join(json.loads(result.stdout)["problems"])
    assert "mean: " in problems
    assert "avrage" in problems
    assert "sum: " in problems
    refused = call(recipes)
    assert isinstance(refused.exception, MergeError)
    assert "sum: " in str(refused.exception)
    assert "mean: " in str(refused.exception)


def test_what_is_finished_is_left_alone_and_new_recipes_are_added(recipes, tmp_path):
    assert call(recipes).exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    (recipes / "more.yaml").write_text(OURS.format("ties"))
    again = call(recipes)
    assert again.exit_code == 0, again.output
    assert again.output.count("left as it is") == 3
    assert "1 merges in" in again.output
    assert "3 were finished before" in again.output
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if path.is_file())
    assert (tmp_path / "out" / "more" / "merge_manifest.json").exists()
    dry = call(recipes, "--dry-run", "--json")
    assert len(json.loads(dry.stdout)["finished"]) == 4


def test_a_changed_recipe_is_not_mistaken_for_the_finished_one(recipes):
    assert call(recipes).exit_code == 0
    (recipes / "sum.yaml").write_text(OURS.format("magmax"))
    result = call(recipes)
    assert isinstance(result.exception, SpecError)
    assert "sum holds a finished merge with another recipe" in str(result.exception)


def test_a_merge_that_cannot_be_made_does_not_hold_up_the_others(recipes, tmp_path):
    (recipes / "sum.yaml").write_text(OURS.format("task_arithmetic") + "params: {scale: 1.0e+38}\n")
    result = call(recipes, "--json")
    assert isinstance(result.exception, MergeError)
    assert "1 of 3 merges cannot be made; the others are finished." in str(result.exception)
    assert "merged by 'task_arithmetic' left the finite numbers" in str(result.exception)
    assert [one["path"].rpartition("/")[2] for one in json.loads(result.stdout)] == ["kit", "mean"]
    assert read_state_dict(tmp_path / "out" / "mean")["a"].shape == (40, 30)


def test_what_cannot_be_asked_for(recipes, tmp_path):
    both = CliRunner().invoke(
        make_app(),
        ["merge", str(recipes / "sum.yaml"), "--many", str(recipes), "--out", str(tmp_path / "out")],
    )
    assert "Give one of them" in str(both.exception)
    none = CliRunner().invoke(make_app(), ["merge", "--out", str(tmp_path / "out")])
    assert "Give one of them" in str(none.exception)
    (recipes / "sum.yml").write_text(OURS.format("ties"))
    assert "would be merged into one folder" in str(call(recipes).exception)
    one_file = ["merge", "--many", str(recipes), "--out", str(tmp_path / "out.safetensors")]
    assert "several merges go into a folder" in str(CliRunner().invoke(make_app(), one_file).exception)
    (tmp_path / "empty").mkdir()
    empty = CliRunner().invoke(make_app(), ["merge", "--many", str(tmp_path / "empty"), "--out", "out"])
    assert "holds no recipe" in str(empty.exception)


def test_a_seed_goes_to_the_recipes_of_mergekit_that_draw(recipes, tmp_path):
    assert call(recipes, "--seed", "0").exit_code == 0
    (recipes / "kit.yaml").write_text(MERGEKITS.format("task_arithmetic"))
    assert "draws at random" in str(call(recipes, "--seed", "0").exception)
