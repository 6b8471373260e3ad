"""Studies whose coefficients are found on validation data: what is found, what goes on after a stop, what is told."""

import json
from collections import Counter

import pytest

from flows.config import load_study
from flows.estimates import Estimates, plan_steps, summarise_plan
from flows.lineage import lineage_lines, lineage_of
from merge_lib.checkpoints import read_state_dict
from tasks.journal import results_of
from tasks.project import Project
from tasks.runs import load_run

pytestmark = pytest.mark.slow

SEARCHED = (
    "methods=[average,"
    " {method: task_arithmetic, label: tuned, search: {trials: 12, params: {scale: {low: 0.1, high: 2.0}}}},"
    " {method: task_arithmetic, label: blocks, search: {trials: 3, when: every, objective: worst,"
    " layer_scales: {blocks: {low: 0.0, high: 2.0}}}},"
    " {method: emr, search: {trials: 2, when: first, params: {rescaler: [global_l1, official]}}}]"
)
ASKED = (SEARCHED, "references=[]", "regimes=[parallel]")
TRIALS = 12 + 2 * 3 + 2 * 2  # last: one search; every, first: one after each of the two tasks


def rows_of(project: Project, run_id: str) -> dict:
    return {row.label: row for row in results_of(project, run_id).rows if row.kind == "merge"}


def said_of(rows: dict) -> dict:
    return {
        label: (row.accuracy, row.params, [ref.digest for ref in row.checkpoints])
        for label, row in rows.items()
    }


def searches_of(project: Project) -> list[dict]:
    return [json.loads(path.read_text()) for path in (project.store / "search").glob("*/record.json")]


def test_coefficients_are_found_kept_and_told(enter_project, run):
    project = enter_project("found")
    plan = summarise(project)
    assert (plan["trial"]["steps"], plan["trial"]["to_run"]) == (TRIALS, TRIALS)

    first, worked = run(*ASKED)
    assert worked["trial"] == TRIALS
    rows = rows_of(project, first)
    check_facts(rows)
    check_validation(project, rows["tuned"])

    chain = next(
        entry for entry in lineage_of(project, results_of(project, first)) if entry["label"] == "tuned"
    )
    assert chain["model"]["search"]["trials"] == 12
    assert any("reached" in line and "the best of 12 trials" in line for line in lineage_lines([chain]))
    report = (project.runs / first / "report" / "report.md").read_text()
    assert "### One model, tuned on validation data" in report
    assert "### A model for each task, which must be told, tuned on validation data" in report
    assert "What the searches found" in report
    check_mlflow(project, first)

    again, worked = run(*ASKED)
    assert worked == Counter()
    assert said_of(rows_of(project, again)) == said_of(rows)
    assert load_run(project, again).unchanged_since == first
    assert summarise(project)["trial"]["to_run"] == 0

    _, worked = run(*ASKED, "methods.tuned.search={trials: 14, params: {scale: {low: 0.1, high: 2.0}}}")
    assert worked["trial"] == 2  # a longer search begins like the shorter one


def test_a_search_that_was_stopped_goes_on_to_the_same_result(enter_project, run):
    project = enter_project("stopped")
    with pytest.raises(Exception, match="Stopped"):
        run(*ASKED, stop_after_trials=4)
    stopped = len(list((project.store / "trial").glob("*/record.json")))
    assert 0 < stopped < TRIALS
    assert summarise(project)["trial"]["to_run"] == TRIALS - stopped
    second, worked = run(*ASKED)
    assert worked["trial"] == TRIALS - stopped
    for record in searches_of(project):  # what was found is lost, and so is one of its trials
        (project.store / "search" / record["key"] / "record.json").unlink()
    next(iter((project.store / "trial").glob("*/record.json"))).unlink()
    third, worked = run(*ASKED)
    assert worked["trial"] == 1
    assert said_of(rows_of(project, third)) == said_of(rows_of(project, second))

    undisturbed = enter_project("undisturbed")
    whole, _ = run(*ASKED)
    assert said_of(rows_of(undisturbed, whole)) == said_of(rows_of(project, second))


def summarise(project: Project) -> dict:
    steps, _ = plan_steps(project, load_study(project.root / "studies" / "digits.yaml", ASKED))
    return {line["kind"]: line for line in summarise_plan(steps, Estimates.of_project(project, steps))}


def check_facts(rows: dict) -> None:
    facts = {label: row.facts for label, row in rows.items()}
    assert {label for label, fact in facts.items() if fact.is_tuned} == {"tuned", "blocks", "emr"}
    assert {label: fact.data for label, fact in facts.items()} == {
        "average": "none",
        "tuned": "labelled",
        "blocks": "labelled",
        "emr": "labelled",
    }
    assert {label for label, fact in facts.items() if fact.looks_ahead} == {"tuned"}
    assert {label for label, fact in facts.items() if fact.needs_task} == {"emr"}
    searched = {label: [ref.search for ref in row.checkpoints] for label, row in rows.items()}
    assert searched["average"] == [None, None]
    assert [told.experts for told in searched["tuned"]] == [2, 2]
    assert searched["tuned"][0] == searched["tuned"][1]
    assert [told.experts for told in searched["blocks"]] == [1, 2]
    assert [told.experts for told in searched["emr"]] == [1, 2]
    assert rows["tuned"].params["scale"] == searched["tuned"][1].values["scale"]
    assert {f"layer_scales.blocks.{block}" for block in (0, 1)} < rows["blocks"].params.keys()


def check_validation(project: Project, row) -> None:
    """The best trial is what its merge reaches on the validation split, and no trial saw another one."""
    told = row.checkpoints[-1].search
    found = next(record for record in searches_of(project) if told.record.endswith(record["key"]))
    assert told.objective == max(trial["objective"] for trial in found["values"]["trials"])
    assert found["params"]["split"] == "validation"
    from merge_lib import workloads

    config = results_of(project, load_run(project, "latest").run_id).config
    settings = workloads.parse(config["workload"])
    workload = workloads.create(settings, tasks=config["tasks"], data=project.root / "data")
    tensors = read_state_dict(project.root / row.checkpoints[-1].path)
    measured = workload.evaluate(tensors, config["tasks"], split="validation")
    best = max(found["values"]["trials"], key=lambda trial: trial["objective"])
    assert best["accuracy"] == measured
    assert told.objective == pytest.approx(sum(measured.values()) / 2)


def check_mlflow(project: Project, run_id: str) -> None:
    """A child run for each search, with a metric a trial and what was found."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project.root / '.mergeline' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("digits")
    runs = client.search_runs([experiment.experiment_id], "tags.`mergeline.kind` = 'search'")
    assert len(runs) == 5
    tuned = next(one for one in runs if one.data.params["label"] == "tuned")
    history = client.get_metric_history(tuned.info.run_id, "validation")
    assert sorted(point.step for point in history) == list(range(1, 13))
    assert max(point.value for point in history) == tuned.data.metrics["best_so_far"]
    assert float(tuned.data.params["found.scale"]) > 0
    assert tuned.data.params["search.when"] == "last"
    assert tuned.data.tags["mergeline.run"] == run_id
