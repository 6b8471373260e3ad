"""Where knowledge goes: retention by the age of a task, and of the shared cue as tasks arrive."""

import numpy as np
import pytest

from merge_lib.report.knowledge import Known, ages, along_tasks
from merge_lib.results import CheckpointRef, Row, StudyResults
from merge_lib.sweep_table import MeasuredCell

TASKS = ["colour", "noise", "colour-2"]


def row(label: str, accuracy: list[list[float]], *, regime="parallel", method="average", shared=None) -> Row:
    kind = "reference" if method in ("base", "expert") else "merge"
    probes = [{"shared": value} for value in shared] if shared else []
    seed = None if method == "base" else 0
    ref = CheckpointRef(None, "xxh3:1", 1)
    return Row(label, kind, method, regime, seed, {}, accuracy, 0.1, [ref], probes=probes)


@pytest.fixture
def cell() -> MeasuredCell:
    base = row("base", [[0.2, 0.2, 0.2]] * 3, regime=None, method="base", shared=[0.3] * 3)
    learned = [[1.0, 0.2, 0.2], [0.2, 1.0, 0.2], [0.2, 0.2, 0.22]]  # the last expert gained next to nothing
    expert = row("expert", learned, method="expert", shared=[0.8] * 3)
    merged = [[1.0, 0.2, 0.2], [0.6, 0.6, 0.2], [0.4, 0.6, 0.2]]
    merge = row("average", merged, shared=[0.8, 0.55, 0.8])
    results = StudyResults(
        study="s",
        run_id="s-1",
        description="",
        workload="cues",
        scenario="",
        tasks=TASKS,
        seeds=[0],
        chance=[0.1] * 3,
        data={},
        config={"methods": [{"label": "average"}], "workload": {"name": "cues"}},
        environment={},
        started_at="2026-01-01T00:00:00+00:00",
        elapsed_s=1.0,
        rows=[base, expert, merge],
    )
    return MeasuredCell({"workload.shared": "0.5"}, results)


def test_what_is_kept_is_a_share_of_the_expert_s_gain(cell):
    known, merge = Known.of(cell.results), cell.results.rows[-1]
    assert known.kept(merge, 0, 2) == pytest.approx(0.25)
    assert known.kept(merge, 1, 2) == pytest.approx(0.5)
    assert np.isnan(known.kept(merge, 2, 2))
    assert [known.kept_shared(merge, stage) for stage in range(3)] == pytest.approx([1.0, 0.5, 1.0])


def test_ages_are_a_column_each(cell):
    (panel,) = ages([cell]).panels
    assert panel.title == "parallel · workload.shared = 0.5"
    shown = {shape.text for shape in panel.shapes if shape.kind == "box"}
    assert {
        "average, on colour: 25.0 %",
        "average, on noise: 50.0 %",
        "average, on colour-2: not measured",
    } <= shown


def test_own_and_shared_cues_are_curves_over_the_tasks_learned(cell):
    (panel,) = along_tasks([cell]).panels
    tips = {shape.text for shape in panel.shapes if "dot" in shape.style}
    assert "own cues, parallel, tasks learned 3: 37.5 %" in tips
    assert "shared cue, parallel, tasks learned 2: 50.0 %" in tips


def test_two_tasks_have_no_ages(cell):
    short = cell.results.tasks[:2]
    fewer = MeasuredCell(cell.levels, StudyResults(**{**vars(cell.results), "tasks": short}))
    assert (ages([fewer]), along_tasks([fewer])) == (None, None)
