"""Audits of a study and of a recipe, as a user asks for them."""

import json
import shutil
from collections import Counter

import pytest
import torch
from mlflow import MlflowClient
from typer.testing import CliRunner

from flows.cli import make_app
from flows.config import load_study
from flows.estimates import plan_steps
from merge_lib.diagnostics import read_table
from merge_lib.errors import SpecError
from tasks.auditing import TABLE
from tasks.journal import results_of
from tasks.project import Project
from tasks.records import RECORD


@pytest.fixture
def recipe(make_recipe):
    return make_recipe(6, 5, dtype=torch.float64)


def asked(*words: str):
    return CliRunner().invoke(make_app(["audit"]), ["audit", *map(str, words)])


def test_a_recipe_is_audited_without_a_study(recipe, tmp_path):
    result = asked(recipe, "--top", "3")
    assert result.exit_code == 0, result.output
    for text in ("Energy kept of each expert", "By block", "layers.1", "red", "blue", "share kept"):
        assert text in result.stdout
    assert not (tmp_path / "merged").exists()


def test_all_of_it_as_json_as_a_table_and_as_a_plot(recipe, tmp_path):
    files = [tmp_path / "deep" / name for name in ("audit.parquet", "audit.csv", "plot.svg", "plot.png")]
    for table, plot in (files[0::2], files[1::2]):
        result = asked(recipe, "--json", "--tensor", "layers.0.*", "--out", table, "--plot", plot)
        assert result.exit_code == 0, result.output
    (told,) = json.loads(result.stdout)
    assert (told["label"], told["seeds"]) == ("ties", [0])
    assert list(told["blocks"]) == ["layers.0"]
    assert {loss["tensor"] for loss in told["losses"]} == {"layers.0.weight"}
    assert all(loss["why"].keys() >= {"share kept", "energy trimmed"} for loss in told["losses"])
    table = read_table(files[0])
    assert set(table["tensor"].to_pylist()) == {"layers.0.weight", "layers.1.weight"}  # the whole table
    assert set(table["seed"].to_pylist()) == {0}
    assert len(files[1].read_text().splitlines()) == 1 + len(table)
    assert "layers.0" in files[2].read_text()
    assert files[3].read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--out", "a.json"), r"--out a\.json must end in \.parquet or \.csv"),
        (("--plot", "a.pdf"), r"--plot a\.pdf must end in \.svg or \.png"),
        (("--label", "ties"), "--label and --regime choose among a run's merges"),
        (("--tensor", "layer.0"), r"No tensor is called 'layer\.0': .*layers\.0\.weight"),
    ],
)
def test_what_cannot_be_asked_of_a_recipe(words, message, recipe):
    with pytest.raises(SpecError, match=message):
        raise asked(recipe, *words).exception


def test_a_recipe_of_mergekit_s_is_refused(tmp_path):
    path = tmp_path / "theirs.yaml"
    path.write_text("merge_method: linear\nmodels: [{model: a}]\n")
    with pytest.raises(SpecError, match="is a recipe of mergekit's, and only recipes of ours can be audited"):
        raise asked(path).exception


STUDY = [
    "methods=[average, {method: ties, label: trimmed}, emr, opcm]",
    "references=[]",
    "regimes=[parallel]",
]


@pytest.mark.slow
def test_a_study_audits_its_last_merges_once(project, run):
    first, worked = run(*STUDY, "audit=false")
    assert worked["audit"] == 0
    with pytest.raises(SpecError, match="has no audits: its study said audit: false"):
        raise asked(first).exception

    second, worked = run(*STUDY)  # only the audits are missing
    assert worked == Counter({"audit": 4})
    rows = {row.label: row for row in results_of(project, second).rows if row.kind == "merge"}
    kept = {label: row.audit.of_tasks("energy kept") for label, row in rows.items()}
    assert all(len(values) == 2 for values in kept.values())
    assert min(kept["emr"]) > max(kept["average"])  # a model for each task keeps more than one of both
    steps, _ = plan_steps(project, load_study(project.root / "studies" / "digits.yaml", STUDY))
    assert [step.is_cached for step in steps if step.kind == "audit"] == [True] * 4

    _check_mlflow(project, second)
    _check_report(project, second)
    _check_command(project, second)
    _check_loss(project, rows["trimmed"].audit.record, run)


def _check_mlflow(project: Project, run_id: str) -> None:
    client = MlflowClient(project.tracking_uri)
    experiment = client.get_experiment_by_name("digits").experiment_id
    found = client.search_runs([experiment], f"tags.`mergeline.key` = '{run_id}/trimmed/parallel/0'")
    (child,) = found
    assert [item.path for item in client.list_artifacts(child.info.run_id, "audit")] == [f"audit/{TABLE}"]
    place = client.download_artifacts(child.info.run_id, f"audit/{TABLE}")
    table = read_table(place)
    assert set(table["label"].to_pylist()) == {"trimmed"}
    assert set(table["task"].to_pylist()) == {"", "digits-01", "digits-23"}
    metrics = child.data.metrics
    assert 0 < metrics["audit/energy_kept_min"] <= metrics["audit/energy_kept_mean"]
    assert 0 <= metrics["audit/outvoted_energy_mean"] <= 1


def _check_report(project: Project, run_id: str) -> None:
    folder = project.runs / run_id / "report"
    markdown = (folder / "report.md").read_text()
    assert "## What each merge removed" in markdown
    assert (folder / "figures" / "energy-kept.svg").is_file()


def _check_command(project: Project, run_id: str) -> None:
    overview = asked(run_id)
    assert overview.exit_code == 0, overview.output
    assert "With --label and --regime: by block" in overview.stdout.replace("\n", " ")
    one = asked(run_id, "--label", "trimmed", "--regime", "parallel", "--json")
    (told,) = json.loads(one.stdout)
    assert "encoder.layer.1" in told["blocks"]
    assert told["losses"][0]["why"].keys() >= {"share kept", "energy trimmed", "energy outvoted"}
    with pytest.raises(SpecError, match="no audited label 'ties'"):
        raise asked(run_id, "--label", "ties").exception


def _check_loss(project: Project, record: str, run) -> None:
    """An audit that is gone is told, and is made anew by the next run alone."""
    folder = project.store / record
    before = read_table(folder / TABLE)
    assert (folder / RECORD).is_file()
    shutil.rmtree(folder)
    with pytest.raises(SpecError, match=r"The audit of 'trimmed' \(parallel, seed 0\) is gone"):
        raise asked("latest").exception
    _, worked = run(*STUDY)
    assert worked == Counter({"audit": 1})
    assert read_table(folder / TABLE).equals(before)
