"""A study of cues from the first step to the report."""

import pytest

from flows.config import load_study
from flows.estimates import plan_steps
from merge_lib.errors import SpecError
from tasks.journal import results_of

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
