"""Studies whose inputs find the models of a merge: planned, run, found again, and told."""

from collections import Counter
from pathlib import Path

import pytest

from flows.config import load_study
from flows.estimates import Estimates, plan_steps, summarise_plan
from flows.lineage import lineage_lines, lineage_of
from flows.study import study_flow
from merge_lib.errors import SpecError
from tasks import progress
from tasks.journal import results_of
from tasks.project import Project
from tasks.runs import load_run

STUDY = f"""
study: corners
plugins: [{Path(__file__).parents[1] / "corners.py"}]
workload: {{name: corners}}
tasks: [north, west]
seeds: [0]
regimes: [parallel]
references: []
methods:
  - condu
  - {{method: condu, label: vote, routing: {{voters: 2}}}}
  - {{method: condu, label: untold, routing: {{known_tasks: false}}}}
"""


@pytest.fixture
def study(tmp_path) -> Path:
    path = tmp_path / "studies" / "corners.yaml"
    path.parent.mkdir()
    path.write_text(STUDY)
    return path


def run() -> tuple[str, Counter]:
    worked: Counter = Counter()

    def listener(step: progress.Step) -> None:
        if not step.reused and step.share_done == 1.0:
            worked[step.kind] += 1

    stop_listening = progress.listen(listener)
    try:
        return study_flow(study="studies/corners.yaml"), worked
    finally:
        stop_listening()


def summarise(project: Project) -> dict:
    steps, _ = plan_steps(project, load_study(project.root / "studies" / "corners.yaml"))
    return {line["kind"]: line for line in summarise_plan(steps, Estimates.of_project(project, steps))}


@pytest.mark.slow
def test_a_study_answers_one_merge_in_several_ways(enter_project):
    project = enter_project("corners")
    (project.root / "studies" / "corners.yaml").write_text(STUDY)
    planned = summarise(project)
    assert [planned[kind]["to_run"] for kind in ("merge", "route", "audit")] == [2, 4, 1]
    first, worked = run()
    assert (worked["merge"], worked["route"], worked["audit"]) == (2, 4, 1)
    check_told(project, first)
    assert [line["to_run"] for line in summarise(project).values()] == [0] * len(planned)
    again, worked = run()
    assert worked == Counter()
    assert load_run(project, again).unchanged_since == first


def check_told(project: Project, run_id: str) -> None:
    """Results, report, MLflow and lineage say what routes, how well, and what must be kept for it."""
    rows = {row.label: row for row in results_of(project, run_id).rows if row.kind == "merge"}
    assert rows["vote"].routing["voters"] == 2
    assert rows["condu"].routing is None
    assert [list(stage.right) for stage in rows["vote"].routed] == [["north"], ["north", "west"]]
    report = (project.runs / run_id / "report" / "report.md").read_text()
    assert "### A model for each task, chosen by the input" in report
    assert "## How inputs found their models" in report
    assert "| vote | the task's own model | a vote | the base and 2 tasks |" in report

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project.root / '.mergeline' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("corners")
    found = client.search_runs([experiment.experiment_id], "params.label = 'vote' and params.seed = '0'")
    assert found[0].data.params["routing.voters"] == "2"
    history = client.get_metric_history(found[0].info.run_id, "kept/all")
    kept = [sum(stage.kept.values()) for stage in rows["vote"].routed]
    assert sorted((point.step, point.value) for point in history) == list(enumerate(kept, 1))
    assert found[0].data.metrics["routing/mean"] == pytest.approx(
        sum(rows["vote"].routed[1].right.values()) / 2
    )
    lines = list(lineage_lines(lineage_of(project, results_of(project, run_id), "vote")))
    assert any("merge condu(" in line and "answered by include_base=True" in line for line in lines)


def refusal(study: Path, *overrides: str) -> str:
    with pytest.raises(SpecError) as caught:
        load_study(study, overrides)
    return str(caught.value)


def test_routing_is_of_methods_with_a_model_for_each_task(study):
    said = refusal(study, "methods=[{method: opcm, routing: {}}]")
    assert "methods.0.routing: method 'opcm' gives one model" in said
    assert "known: condu, emr, tall_masks" in said
    said = refusal(study, "methods=[{method: emr, params: {task: 1}, routing: {}}]")
    assert "`params.task: 1` asks for that task's model alone" in said
    said = refusal(study, "methods=[{method: emr, routing: {voter: 3, weights: similarty}}]")
    assert "methods.0.routing.voter: unknown key 'voter'. Did you mean 'voters'?" in said
    assert "Did you mean 'similarity'?" in said


def test_votes_need_a_workload_with_features(study):
    plain = "workload={name: vision, scenario: task-incremental}"
    said = refusal(study, plain)
    assert "methods: `routing` of vote, untold puts inputs to the vote, but workload 'vision' has no" in said
    config = load_study(study, [plain, "methods=[{method: emr, routing: {unseen: base}}]"])
    assert config.methods[0].routing.unseen == "base"
