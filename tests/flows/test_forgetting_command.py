"""What merges forgot, of a study and of a recipe, as a user asks for it."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from flows.cli import make_app
from flows.commands.forgetting import PAGE
from flows.config import load_study
from flows.estimates import plan_steps
from merge_lib.diagnostics import read_table
from merge_lib.errors import SpecError
from merge_lib.forgetting.comparison import shares_of
from merge_lib.results import Row
from tasks.forgetting import ANSWERS, DIRECTIONS, PICTURES, answers_in
from tasks.journal import results_of
from tasks.project import Project


@pytest.fixture
def recipe(make_recipe):
    return make_recipe(16, 12)


def asked(*words: str):
    return CliRunner().invoke(make_app(["forgetting"]), ["forgetting", *map(str, words)])


def test_a_recipe_s_directions_without_a_study(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = asked(recipe, "--top", "3")
    assert result.exit_code == 0, result.output
    for text in ("By task", "By block", "Where most is gone", "layers.1", "red", "blue"):
        assert text in result.stdout
    folder = tmp_path / "recipe-forgetting"
    assert sorted(path.name for path in folder.iterdir()) == [DIRECTIONS, PAGE]
    table = read_table(folder / DIRECTIONS)
    assert set(table["tensor"].to_pylist()) == {"layers.0.weight", "layers.1.weight"}
    assert set(table["seed"].to_pylist()) == {0}
    assert "By block" in (folder / PAGE).read_text()


def test_as_json_into_a_folder(recipe, tmp_path):
    result = asked(recipe, "--json", "--out", tmp_path / "deep" / "out")
    (told,) = json.loads(result.stdout)
    assert (told["label"], told["regime"]) == ("ties", None)
    assert set(told["seeds"][0]["tasks"]) == {"red", "blue"}
    assert (tmp_path / "deep" / "out" / DIRECTIONS).is_file()


@pytest.mark.parametrize("words", [("--label", "ties"), ("--regime", "parallel"), ("--seed", "0")])
def test_a_recipe_is_one_merge(words, recipe):
    with pytest.raises(SpecError, match="--label, --regime and --seed choose among a run's merges"):
        raise asked(recipe, *words).exception


STUDY = (
    "methods=[average, {method: ties, label: trimmed}, emr, opcm]",
    "references=[]",
    "regimes=[parallel]",
    "audit=false",
)


@pytest.mark.slow
def test_a_study_says_what_its_last_merges_forgot(project, run):
    first, worked = run(*STUDY, "forgetting=false", "keep_merged=false")
    assert worked["forgetting"] == 0
    _check_worked_out_later(project, first)

    second, worked = run(*STUDY, "forgetting=true", "keep_merged=false")
    assert worked == Counter({"forgetting": 3})  # the command made one of them
    rows = {row.label: row for row in results_of(project, second).rows if row.kind == "merge"}
    for row in rows.values():
        expert = next(one for one in results_of(project, second).rows if one.label == "expert")
        for place, (task, told) in enumerate(row.forgetting.tasks.items()):
            assert told["after"] == pytest.approx(row.accuracy[-1][place]), (row.label, task)
            assert told["before"] == pytest.approx(expert.accuracy[place][place])
            assert told["after"] - told["before"] == pytest.approx(told["gained"] - told["forgotten"])
    kept = {label: min(row.forgetting.of_tasks("specific kept")) for label, row in rows.items()}
    assert kept["emr"] > kept["average"]  # a model for each task keeps more than one of both
    steps, _ = plan_steps(
        project, load_study(project.root / "studies" / "digits.yaml", [*STUDY, "forgetting=true"])
    )
    assert [step.is_cached for step in steps if step.kind == "forgetting"] == [True] * 4
    _check_mlflow(project, second)
    _check_report(project, second)
    every = json.loads(asked(second, "--json").stdout)
    assert [one["label"] for one in every] == ["average", "trimmed", "emr", "opcm"]
    _check_recipe(project, results_of(project, second).rows)
    _check_loss(project, run, rows["trimmed"].forgetting.record)


def _check_worked_out_later(project: Project, run_id: str) -> None:
    """A run that did not say it is asked later; nothing but what is missing is made."""
    one = asked(run_id, "--label", "trimmed", "--regime", "parallel", "--seed", "0")
    assert one.exit_code == 0, one.output
    folder = project.runs / run_id / "forgetting" / "trimmed-parallel-0"
    assert sorted(path.name for path in folder.iterdir()) == [ANSWERS, DIRECTIONS, PAGE]
    assert set(shares_of(answers_in(folder / ANSWERS))) == {"digits-01", "digits-23"}
    (told,) = json.loads(asked(run_id, "--label", "trimmed", "--json").stdout)
    assert [one["seed"] for one in told["seeds"]] == [0]
    for words, message in (
        (("--label", "ties"), r"no merge of label 'ties': .*trimmed"),
        (("--regime", "sequential"), "no merge of regime 'sequential'"),
        (("--seed", "7"), "no merge of seed '7'"),
    ):
        with pytest.raises(SpecError, match=message):
            raise asked(run_id, *words).exception


def _check_mlflow(project: Project, run_id: str) -> None:
    client = MlflowClient(project.tracking_uri)
    experiment = client.get_experiment_by_name("digits").experiment_id
    (child,) = client.search_runs([experiment], f"tags.`mergeline.key` = '{run_id}/average/parallel/0'")
    names = {item.path for item in client.list_artifacts(child.info.run_id, "forgetting")}
    assert names == {f"forgetting/{name}" for name in (ANSWERS, DIRECTIONS, PICTURES)}
    place = client.download_artifacts(child.info.run_id, f"forgetting/{PICTURES}")
    assert "data:image/png;base64," in Path(place).read_text(encoding="utf-8")
    metrics = child.data.metrics
    assert 0 < metrics["forgetting/forgotten_mean"] <= 1
    assert metrics["forgetting/specific_kept_mean"] == pytest.approx(0.5, abs=0.2)


def _check_report(project: Project, run_id: str) -> None:
    folder = project.runs / run_id / "report"
    assert "## What was forgotten, and which examples" in (folder / "report.md").read_text()
    assert "data:image/png;base64," in (folder / "report.html").read_text()
    assert (folder / "figures" / "forgotten-examples.svg").is_file()


def _check_recipe(project: Project, rows: list[Row]) -> None:
    """A recipe of the same merge says the same, if it is told whose tasks they are."""
    references = {row.label: [ref.path for ref in row.checkpoints] for row in rows if row.kind == "reference"}
    recipe = {"method": "average", "base": references["base"][0], "experts": references["expert"]}
    (project.root / "again.yaml").write_text(json.dumps(recipe))
    result = asked("again.yaml", "--study", "studies/digits.yaml", "--json", "--out", "again")
    (told,) = json.loads(result.stdout)
    (row,) = (row for row in rows if row.label == "average")
    for task, found in told["seeds"][0]["tasks"].items():
        assert found == pytest.approx(row.forgetting.tasks[task])
    assert "data:image/png" in (project.root / "again" / PAGE).read_text()
    for words, message in (
        (
            ("--study", "studies/digits.yaml", "--set", "tasks=[digits-01]"),
            "2 experts, but the study 1 tasks",
        ),
        (("--set", "seeds=[1]"), "Give that, too"),
    ):
        with pytest.raises(SpecError, match=message):
            raise asked("again.yaml", *words).exception
    with pytest.raises(SpecError, match="a run knows"):
        raise asked("latest", "--study", "studies/digits.yaml").exception


def _check_loss(project: Project, run, record: str) -> None:
    """What is gone is made anew by the next run alone, to the same tables."""
    folder = project.store / record
    directions, answers = read_table(folder / DIRECTIONS), answers_in(folder / ANSWERS)
    shutil.rmtree(folder)
    _, worked = run(*STUDY, "forgetting=true", "keep_merged=false")
    assert worked == Counter({"forgetting": 1})
    assert read_table(folder / DIRECTIONS).equals(directions)
    assert answers_in(folder / ANSWERS).equals(answers)


@pytest.mark.slow
def test_kept_merges_are_read_and_say_the_same(project, run):
    asked_of = (*STUDY, "forgetting=true")
    first, _ = run(*asked_of, "keep_merged=true")
    rows = [row for row in results_of(project, first).rows if row.kind == "merge"]
    told = {row.label: row.forgetting for row in rows}
    shutil.rmtree(project.store / "forgetting")
    shutil.rmtree(project.store / "answers")
    for path in project.store.glob("merge/*"):
        shutil.rmtree(path)
    second, worked = run(*asked_of, "keep_merged=false")
    assert worked["forgetting"] == 4
    again = [row for row in results_of(project, second).rows if row.kind == "merge"]
    assert {row.label: row.forgetting for row in again} == told


BLOBS = """
study: blobs
plugins: [examples/blobs.py]
workload: {name: blobs}
tasks: [north, west]
seeds: [0]
regimes: [parallel]
methods: [average]
references: []
audit: false
forgetting: true
"""


@pytest.mark.slow
def test_a_workload_that_says_nothing_of_examples_has_accuracies(project):
    from flows.study import study_flow

    plugin = Path(__file__).parents[2] / "examples" / "blobs.py"  # one place: a process loads a name once
    (project.root / "studies" / "blobs.yaml").write_text(BLOBS.replace("examples/blobs.py", str(plugin)))
    run_id = study_flow(study="studies/blobs.yaml")
    results = results_of(project, run_id)
    (row,) = (row for row in results.rows if row.kind == "merge")
    assert list(row.forgetting.tasks) == ["north", "west"]
    for place, told in enumerate(row.forgetting.tasks.values()):
        assert told["after"] == row.accuracy[-1][place]
        assert told["before"] > told["base"]
        assert "forgotten" not in told
    assert results.forgotten == []
    assert sorted(path.name for path in (project.store / row.forgetting.record).iterdir()) == [
        DIRECTIONS,
        "record.json",
    ]
    result = asked(run_id)
    assert result.exit_code == 0, result.output
    assert "No example is known" in (project.runs / run_id / "forgetting" / "all" / PAGE).read_text()
