"""Paths, surfaces and conflict maps of a study and of a recipe, as a user asks for them."""

import json
import shutil
from collections import Counter

import pytest
import torch
from mlflow import MlflowClient
from typer.testing import CliRunner

from flows.cli import make_app
from flows.config import StudyConfig, load_study
from flows.estimates import plan_steps
from flows.study import study_flow
from merge_lib.errors import SpecError
from merge_lib.maps import MODEL
from tasks import progress
from tasks.journal import results_of
from tasks.project import Project
from tasks.runs import load_run


@pytest.fixture
def recipe(make_recipe):
    return make_recipe(6, 5, dtype=torch.float64)


def asked(*words: str):
    return CliRunner().invoke(make_app(["plot"]), ["plot", *map(str, words)])


def test_conflicts_of_a_recipe_need_no_study(recipe, tmp_path):
    files = [tmp_path / "deep" / name for name in ("map.svg", "map.png")]
    for file in files:
        result = asked("conflicts", recipe, "--out", file)
        assert result.exit_code == 0, result.output
    for text in ("layers.1", MODEL, "cosine", "chance overlap"):
        assert text in result.stdout
    assert "1 red, 2 blue" in files[0].read_text()
    assert files[1].read_bytes()[:4] == b"\x89PNG"
    told = json.loads(asked("conflicts", recipe, "--json").stdout)
    assert told["pairs"] == [["red", "blue"]]
    assert -1 <= told["blocks"][MODEL]["cosine"][0] <= 1


def test_without_out_the_picture_lies_here(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = asked("conflicts", recipe)
    assert result.exit_code == 0, result.output
    assert "Picture:  recipe-conflicts.svg" in result.stdout
    assert (tmp_path / "recipe-conflicts.svg").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("conflicts", "--out", "a.pdf"), r"--out a\.pdf must end in \.svg or \.png"),
        (("conflicts", "--regime", "parallel"), "choose among a run's checkpoints"),
        (("conflicts", "--task", "reds"), "There is no task 'reds': did you mean 'red'"),
        (("conflicts", "--task", "red"), "at least two experts"),
        (("path",), "A recipe names no data to measure losses on"),
        (("surface",), "A recipe names no data to measure losses on"),
    ],
)
def test_what_cannot_be_asked_of_a_recipe(words, message, recipe):
    with pytest.raises(SpecError, match=message):
        raise asked(words[0], recipe, *words[1:]).exception


def study_of(**landscape) -> StudyConfig:
    return StudyConfig.model_validate(
        {
            "study": "s",
            "workload": {"name": "vision", "scenario": "class-incremental"},
            "tasks": ["a"],
            "seeds": [0],
            "methods": ["average"],
            **landscape,
        }
    )


def test_what_a_study_says_of_its_landscape():
    default = study_of().landscape
    assert default == study_of(landscape={"paths": False, "surface": False}).landscape
    assert (default.conflicts, default.paths, default.surface) == (True, 0, 0)
    assert not default.shows_examples
    assert not study_of(landscape=False).landscape.conflicts
    asked_for = study_of(landscape={"paths": True, "surface": 5, "conflicts": False}).landscape
    assert (asked_for.conflicts, asked_for.paths, asked_for.surface) == (False, 11, 5)
    assert asked_for.shows_examples
    for wrong in ({"paths": 1}, {"surface": -3}, {"examples": 0}, {"heights": True}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            study_of(landscape=wrong)


@pytest.fixture
def project(tiny_project, prefect_server, migrated_store, monkeypatch) -> Project:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tiny_project()
    monkeypatch.chdir(root)
    (root / ".mergeline" / "mlflow.db").write_bytes(migrated_store.read_bytes())
    progress.allow_work()
    return Project(root)


STUDY = ["methods=[average, opcm, emr]", "references=[]", "audit=false"]
LANDSCAPE = "landscape={paths: 3, surface: 4, examples: 16}"


def run(*overrides: str) -> tuple[str, Counter]:
    worked: Counter = Counter()

    def listener(step: progress.Step) -> None:
        if not step.reused and step.share_done == 1.0:
            worked[step.kind] += 1

    stop = progress.listen(listener)
    try:
        return study_flow(study="studies/digits.yaml", overrides=[*STUDY, *overrides]), worked
    finally:
        stop()


@pytest.mark.slow
def test_a_study_looks_at_what_lies_between_its_checkpoints(project):
    _, worked = run()
    assert worked["conflicts"] == 2
    second, worked = run(
        LANDSCAPE
    )  # only what is new is looked at; the surface of the first seed in each regime
    assert set(worked) == {"path", "surface", "marks"}
    results = results_of(project, second)
    assert {(one.regime, one.seed) for one in results.landscapes} == {("sequential", 0), ("parallel", 0)}
    found = next(one for one in results.landscapes if one.regime == "parallel")
    assert list(found.conflicts.blocks)[:2] == ["encoder.layer.0", "encoder.layer.1"]
    assert found.path.waypoints == ["base", "digits-01", "digits-23"]
    assert len(found.path.losses) == 5
    assert len(found.surface.losses) == len(found.surface.losses[0]) == 4
    marks = {mark.name: mark for mark in found.surface.marks}
    assert list(marks) == [
        "base",
        "digits-01",
        "digits-23",
        "average",
        "opcm",
    ]  # emr has a model for each task
    assert marks["average"].distance < 1e-4 * marks["digits-01"].x
    assert marks["average"].x == pytest.approx((marks["digits-01"].x + marks["digits-23"].x) / 2, rel=1e-4)
    start, end = found.path.losses[0], found.path.losses[-1]
    assert list(marks["base"].losses.values()) == pytest.approx(start, rel=1e-5)
    assert list(marks["digits-23"].losses.values()) == pytest.approx(end, rel=1e-5)

    third, worked = run(LANDSCAPE)
    assert worked == Counter()
    assert load_run(project, second).unchanged_since is None
    assert load_run(project, third).unchanged_since == second
    assert results_of(project, third).landscapes == results.landscapes
    steps, _ = plan_steps(project, load_study(project.root / "studies" / "digits.yaml", [*STUDY, LANDSCAPE]))
    planned = Counter((step.kind, step.is_cached) for step in steps)
    assert {kind: planned[kind, True] for kind in ("conflicts", "path", "surface", "marks")} == dict.fromkeys(
        ("conflicts", "path", "surface", "marks"), 2
    )
    _check_mlflow(project, second)
    _check_report(project, second)
    _check_commands(project, second, found)
    _check_recipe(project, second)
    _check_loss(project, found.surface.record)


def _check_mlflow(project: Project, run_id: str) -> None:
    client = MlflowClient(project.tracking_uri)
    experiment = client.get_experiment_by_name("digits").experiment_id
    (child,) = client.search_runs([experiment], f"tags.`mergeline.key` = '{run_id}/landscape/parallel/0'")
    files = {item.path for item in client.list_artifacts(child.info.run_id, "landscape")}
    assert files == {f"landscape/{name}" for name in ("conflicts.parquet", "path.json", "surface.json")}
    metrics = child.data.metrics
    assert metrics["path/barrier_max"] >= 0
    assert -1 <= metrics["conflicts/cosine_mean"] <= 1
    assert len(client.get_metric_history(child.info.run_id, "path/loss")) == 5


def _check_report(project: Project, run_id: str) -> None:
    folder = project.runs / run_id / "report"
    assert "## Where the merges lie" in (folder / "report.md").read_text()
    for name in ("loss-paths", "loss-surface", "conflicts"):
        assert (folder / "figures" / f"{name}.svg").is_file()


def _check_commands(project: Project, run_id: str, found) -> None:
    words = ("path", run_id, "--regime", "parallel", "--points", 3, "--examples", 16, "--json")
    told = json.loads(asked(*words).stdout)
    assert told["losses"] == found.path.losses  # what the study measured
    assert told["record"] == found.path.record
    words = ("--through", "digits-23", "--through", "average", "--points", 2, "--examples", 9, "--json")
    through = json.loads(asked("path", run_id, *words).stdout)
    assert through["waypoints"] == ["digits-23", "average"]
    svg = project.root / "surface.svg"
    result = asked("surface", run_id, "--regime", "parallel", "--size", 4, "--label", "average", "--out", svg)
    assert result.exit_code == 0, result.output
    assert "1\u00a0average" in svg.read_text()
    assert "Picture:" in result.stdout
    result = asked("surface", "latest", "--size", 4, "--examples", 8)
    assert "Not marked, as their weights were not kept: emr" in result.stdout
    for words, message in (
        (("surface", run_id, "--task", "digits-01"), "two experts; got 1"),
        (("path", run_id, "--through", "averages"), "no such checkpoint: did you mean 'average'"),
        (("path", run_id, "--through", "emr"), "'emr' was not kept"),
        (("path", run_id, "--seed", "7"), "There is no seed '7': known: 0"),
        (("path", run_id, "--regime", "merged"), "There is no regime 'merged'"),
        (("surface", run_id, "--label", "ties"), "There is no label 'ties'"),
        (("path", run_id, "--study", "studies/digits.yaml"), "--study goes with a recipe"),
    ):
        with pytest.raises(SpecError, match=message):
            raise asked(*words).exception


def _check_recipe(project: Project, run_id: str) -> None:
    rows = {(row.label, row.regime): row.checkpoints for row in results_of(project, run_id).rows}
    experts = ", ".join(ref.path for ref in rows["expert", "parallel"])
    recipe = project.root / "recipe.yaml"
    recipe.write_text(f"method: average\nbase: {rows['base', None][0].path}\nexperts: [{experts}]\n")
    study = ("--study", "studies/digits.yaml", "--examples", 16, "--json")
    told = json.loads(asked("surface", recipe, "--size", 4, *study).stdout)
    assert [mark["name"] for mark in told["marks"]] == ["base", "digits-01", "digits-23", "average"]
    path = json.loads(asked("path", recipe, "--through", "base", "--through", "average", *study).stdout)
    assert path["losses"][-1] == pytest.approx(list(told["marks"][-1]["losses"].values()), rel=1e-6)
    recipe.write_text(f"method: average\nexperts: [{experts}]\n")
    with pytest.raises(SpecError, match="the recipe has no base"):
        raise asked("conflicts", recipe).exception


def _check_loss(project: Project, record: str) -> None:
    """A surface that is gone is drawn anew, and nothing else."""
    shutil.rmtree(project.store / record)
    _, worked = run(LANDSCAPE)
    assert worked == Counter({"surface": 1})
    assert not list((project.store / "surface").glob(".*"))


@pytest.mark.slow
def test_merges_that_are_not_kept_are_made_again_for_the_surface(project):
    only = ("regimes=[parallel]", "landscape={surface: 2, examples: 4, conflicts: false}")
    kept, _ = run(*only)
    shutil.rmtree(project.store / "merge")
    unkept, worked = run(*only, "keep_merged=false")
    assert worked["surface"] == 0
    assert results_of(project, unkept).landscapes == results_of(project, kept).landscapes
    shutil.rmtree(project.store / "marks")
    again, worked = run(*only, "keep_merged=false")
    assert worked == Counter({"marks": 1})
    before, after = (results_of(project, name).landscapes[0].surface.marks for name in (kept, again))
    assert [mark.name for mark in after] == [mark.name for mark in before]
    for one, other in zip(before, after, strict=True):
        assert list(one.losses.values()) == pytest.approx(list(other.losses.values()), rel=1e-5)
