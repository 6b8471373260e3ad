"""`mergeline forecast`, as a user asks for it."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from flows.cli import make_app
from flows.config import load_study
from flows.forecasting.collecting import lines_of
from flows.forecasting.rebuild import rebuild
from merge_lib.errors import DataError, SpecError
from merge_lib.forecast.model import ForecastModel
from merge_lib.forecast.training import FEATURES, Settings
from tasks import progress, slots
from tasks.project import Project

STUDIES = {
    "one": "scenario: class-incremental",
    "two": "scenario: task-incremental",
    "three": "scenario: domain-incremental",
}
STUDY = """
study: forecast-{name}
workload:
  name: vision
  {scenario}
  model: {{image_size: 8, patch_size: 4, width: 32, depth: 2, heads: 2, mlp_ratio: 2}}
  pretraining: {{epochs: 1, batch_size: 64}}
  fine_tuning: {{epochs: 1, batch_size: 64}}
tasks: [digits-01, digits-23]
seeds: [0]
methods: [average, {{method: task_arithmetic, params: {{scale: 1.0}}}}, ties, emr]
references: []
regimes: [parallel]
keep_merged: false
audit: false
"""


@pytest.fixture
def recipe(make_recipe):
    return make_recipe(6, 5)


def asked(*words):
    return CliRunner().invoke(make_app(["forecast"]), ["forecast", *map(str, words)])


def test_a_recipe_and_all_methods_without_data(recipe):
    result = asked(recipe)
    assert result.exit_code == 0, result.output
    for text in ("Expected loss", "recipe (ties)", "task_arithmetic", "red", "blue", "rank correlation"):
        assert text in result.stdout
    assert sorted(path.suffix for path in recipe.parent.iterdir()) == [".safetensors"] * 3 + [".yaml"]


def test_as_json_the_methods_that_are_asked_for_in_order(recipe):
    result = asked(recipe, "--methods", "average,tsv", "--tasks", "law,code", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["tasks"] == ["law", "code"]
    assert {one["label"] for one in told["methods"]} == {"recipe", "average", "tsv"}
    assert [one["rank"] for one in told["methods"]] == [1, 2, 3]
    means = [one["mean"] for one in told["methods"]]
    assert means == sorted(means)
    for one in told["methods"]:
        for found in one["tasks"].values():
            assert found["low"] <= found["loss"] <= found["high"]
    assert told["from"] == "weights"
    assert told["model"]["table"]["digest"].startswith("sha256:")


def test_models_far_from_the_table_are_said_to_be(recipe):
    told = json.loads(asked(recipe, "--methods", "none", "--json").stdout)
    assert told["outside"]["length (model)"] == 2  # random weights are as far apart as they are long
    assert any("beyond what the model has seen" in note for note in told["notes"])


def test_recipes_of_both_kinds_side_by_side(recipe):
    theirs = recipe.with_name("theirs.yaml")
    theirs.write_text(
        "merge_method: linear\nmodels:\n"
        "- {model: red.safetensors, parameters: {weight: 0.5}}\n"
        "- {model: blue.safetensors, parameters: {weight: 0.5}}\n"
    )
    base = recipe.with_name("base.safetensors")
    told = json.loads(asked(recipe, theirs, "--methods", "average", "--base", base, "--json").stdout)
    found = {one["label"]: one for one in told["methods"]}
    assert found["theirs"]["method"] == "mergekit.linear"
    assert found["theirs"]["mean"] == pytest.approx(found["average"]["mean"], abs=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--methods", "tiez"), "There is no merge method 'tiez': .*ties"),
        (("--methods", "fisher"), "Method 'fisher' needs data"),
        (("--tasks", "a,b,c"), "3 tasks were named for 2 experts"),
        (("--tasks", "a,a"), "Two experts have one task: a, a"),
        (("--seed", "1"), "--seed is of mergekit's recipes"),
    ],
)
def test_what_cannot_be_asked(words, message, recipe):
    with pytest.raises(SpecError, match=message):
        raise asked(recipe, *words).exception


def test_nothing_is_asked():
    with pytest.raises(SpecError, match="A forecast needs a recipe"):
        raise asked().exception


@pytest.fixture
def project(tiny_project, monkeypatch):
    root = tiny_project()
    monkeypatch.chdir(root)
    (root / "studies" / "forecast").mkdir()
    for name, scenario in STUDIES.items():
        path = root / "studies" / "forecast" / f"{name}.yaml"
        path.write_text(STUDY.format(name=name, scenario=scenario))
    (root / "docs").mkdir()
    progress.allow_work()
    return root


@pytest.mark.slow
def test_the_model_is_made_from_studies_and_then_asked_with_inputs(project):
    studies = sorted((project / "studies" / "forecast").glob("*.yaml"))
    slots.configure(1, 1)
    said = []
    for name in ("own.json", "again.json"):
        settings = dict.fromkeys(FEATURES, Settings(trees=10, depth=2))
        rebuild(Project(project), project / name, say=said.append, settings=settings)
    assert (project / "again.json").read_bytes() == (project / "own.json").read_bytes()
    assert [line.partition(": ")[2] for line in said[:3]] == ["8 rows"] * 3
    assert sum("measured before" in line for line in said) == 3
    model = ForecastModel.load(project / "own.json")
    assert model.table["rows"] == 3 * 4 * 2
    assert model.table["studies"] == ["forecast-one", "forecast-three", "forecast-two"]
    page = (project / "docs" / "forecast-figures.md").read_text()
    assert "| always the mean |" in page
    assert "| forecast-two | 8 |" in page

    trained = sorted((project / ".mergeline" / "store" / "train").glob("*/model.safetensors"))
    (base, *_) = (project / ".mergeline" / "store" / "pretrain").glob("*/model.safetensors")
    for name, path in zip(("base", "a", "b"), (base, *trained), strict=False):
        shutil.copy(path, project / f"{name}.safetensors")
    (project / "merge.yaml").write_text(
        "method: average\nbase: base.safetensors\nexperts: [a.safetensors, b.safetensors]\n"
    )
    words = (
        "merge.yaml",
        "--methods",
        "task_arithmetic,emr",
        "--inputs",
        studies[0],
        "--model",
        "own.json",
        "--json",
    )
    told = json.loads(asked(*words).stdout)
    assert told["from"] == "inputs"
    assert told["tasks"] == ["digits-01", "digits-23"]
    assert {one["label"] for one in told["methods"]} == {"merge", "task_arithmetic", "emr"}

    result = asked(*words[:-1], "--tasks", "digits-01")
    with pytest.raises(
        SpecError, match=r"The recipe has 2 experts, but study .* Name the task of each expert"
    ):
        raise result.exception


def test_inputs_of_a_study_whose_data_is_not_made(project, recipe):
    shutil.rmtree(project / "data" / "tasks")
    with pytest.raises(DataError):
        raise asked(recipe, "--inputs", project / "studies" / "digits.yaml").exception


def test_a_model_of_three_studies_at_least(project):
    with pytest.raises(SpecError, match="takes three or more; got 1"):
        raise asked(project / "studies" / "digits.yaml", "--rebuild", "--model", "own.json").exception


def test_a_study_that_searches_is_refused_before_any_work(project):
    path = project / "studies" / "forecast" / "one.yaml"
    searched = "{method: ties, search: {trials: 2, params: {scale: {low: 0.1, high: 1.0}}}}"
    path.write_text(path.read_text().replace("ties,", f"{searched},"))
    with pytest.raises(SpecError, match="searches the coefficients of ties, but a forecast learns"):
        list(lines_of(Project(project), load_study(path)))
    assert not (project / ".mergeline" / "store" / "pretrain").exists()
