"""A study of cues from the first step to the report."""

import pytest

from flows.config import load_study
from flows.estimates import plan_steps
from merge_lib.errors import MergeError, SpecError
from tasks.journal import results_of
from tasks.runs import load_run

STUDY = """\
study: cues
workload:
  name: cues
  snapshot: digits-01
  model: {image_size: 8, patch_size: 4, width: 16, depth: 1, heads: 2}
  pretraining: {epochs: 1, batch_size: 64}
  fine_tuning: {epochs: 2, batch_size: 32}
tasks: [colour, noise]
seeds: [0]
methods:
  - {method: linear, each: {position: [0.0, 0.5]}}
references: []
"""


@pytest.fixture
def cues(project):
    (project.root / "studies" / "digits.yaml").write_text(STUDY)
    return project


def test_both_regimes_start_with_the_same_expert(cues, run):
    run_id, worked = run()
    rows = {(row.label, row.regime): row for row in results_of(cues, run_id).rows}
    ends = [rows["linear-position-0.0", regime] for regime in ("parallel", "sequential")]
    assert ends[0].accuracy == ends[1].accuracy
    assert worked["train"] == 3  # the first expert of both regimes, and a second one each
    # A longer study knows the base and the first expert of each regime already.
    _, again = run("tasks=[colour, noise, colour-2]", "regimes=[parallel]")
    assert (again["pretrain"], again["train"]) == (0, 1)


def test_tasks_that_are_no_cues_are_refused_before_work(cues):
    study = load_study(cues.root / "studies" / "digits.yaml", ["tasks=[colour, sound]"])
    with pytest.raises(SpecError, match="Task 'sound' is no cue"):
        plan_steps(cues, study)


@pytest.mark.slow
def test_what_does_not_need_a_diverged_expert_is_finished_and_the_run_goes_on_with_a_lower_rate(cues, run):
    wild = ("workload.strength={noise: 1e30}", "workload.fine_tuning.max_grad_norm=1e30")
    asked = ("regimes=[parallel]", "references=[joint]")
    with pytest.raises(
        MergeError, match=r"(?s)parallel 2/2 · seed 0 on noise stopped.*missing for it: expert"
    ):
        run(*asked, *wild)
    stopped = load_run(cues, "latest")
    assert stopped.status == "failed"
    assert set(stopped.missing) == {
        "expert · parallel · seed 0",
        "linear-position-0.0 · parallel · seed 0",
        "linear-position-0.5 · parallel · seed 0",
    }
    assert "diverged: lower `learning_rate`" in stopped.missing["expert · parallel · seed 0"]
    results = results_of(cues, stopped.run_id)
    assert {row.label for row in results.rows} == {"base", "joint"}
    assert "INCOMPLETE: 3 rows are missing" in results.description
    assert (cues.runs / stopped.run_id / "report" / "report.html").is_file()

    run_id, worked = run("workload.strength={}", run_id=stopped.run_id)
    assert run_id == stopped.run_id
    assert worked["pretrain"] == 0
    finished = load_run(cues, run_id)
    assert (finished.status, finished.missing) == ("finished", {})
    assert finished.config["workload"]["strength"] == {}
    assert {row.label for row in results_of(cues, run_id).rows} >= {"expert", "linear-position-0.5", "joint"}
