"""Studies with methods that look at data, give a model for each task, or are scaled by depth."""

from collections import Counter

import pytest

from tasks.journal import results_of
from tasks.project import Project
from tasks.records import RecordStore

pytestmark = pytest.mark.slow

METHODS = (
    "methods=[cat, {method: regmean, calibration: {examples: 20}}, {method: fisher, calibration: {examples: 6}},"
    " {method: adamerging, params: {steps: 2}}, greedy_soup, emr, tall_masks,"
    " {method: task_arithmetic, label: lines, layer_scales: {slope: 0.5}},"
    " {method: magmax, label: magmax_lines, layer_scales: {slope: 0.5}},"
    " {method: opcm, label: equal, equalise: norms}]"
)
LABELS = (
    "cat", "regmean", "fisher", "adamerging", "greedy_soup", "emr", "tall_masks", "lines", "magmax_lines", "equal",
)  # fmt: skip


def accuracy_of(project: Project, run_id: str) -> dict:
    return {
        (row.label, row.regime): row.accuracy
        for row in results_of(project, run_id).rows
        if row.kind == "merge"
    }


def test_methods_learn_from_data_once_and_are_compared(project, run):
    asked = (METHODS, "references=[]", "regimes=[parallel]")
    first, worked = run(*asked)
    rows = accuracy_of(project, first)
    assert {label for label, _ in rows} == set(LABELS)
    assert all(len(matrix) == 2 and len(matrix[0]) == 2 for matrix in rows.values())
    observed = {path.parent.name for path in (project.store / "observe").glob("*/observations.json")}
    assert len(observed) == 3 * 2  # features, Gram, Fisher of each of the two experts, whatever the stage
    fitted = list((project.store / "fit").glob("*/fitted.safetensors"))
    assert len(fitted) == 2 * 2  # two methods, after each of the two tasks

    again, worked = run(*asked)
    assert worked == Counter()
    assert accuracy_of(project, again) == rows

    kept_not, worked = run(*asked, "keep_merged=false")
    assert accuracy_of(project, kept_not) == rows
    assert worked["merge"] == 0

    _, worked = run(METHODS.replace("examples: 20", "examples: 9"), *asked[1:])
    assert worked["merge"] == 2
    other = {path.parent.name for path in (project.store / "observe").glob("*/observations.json")}
    assert len(other - observed) == 2


def test_a_model_for_each_task_keeps_what_its_expert_knew(project, run):
    run_id, _ = run("methods=[emr, condu, average]", "references=[]", "regimes=[parallel]")
    results = results_of(project, run_id)
    rows = {(row.label, row.regime): row for row in results.rows}
    emr, experts = rows["emr", "parallel"], rows["expert", "parallel"]
    # at the first two stages ConDU has decoded no expert twice, so it is EMR-Merging
    assert rows["condu", "parallel"].accuracy == emr.accuracy
    states = [record.values["state_bytes"] for record in RecordStore(project.store).of_kind("fold")]
    assert len(states) == 2  # one expert more each
    told = [ref.state_bytes for ref in rows["condu", "parallel"].checkpoints]
    assert told == sorted(states)  # not the bytes of what answers
    assert all(ref.state_bytes is None for ref in emr.checkpoints)  # the next merge needs every expert again
    # one expert alone is decoded as it was, so after the first task its accuracy is the expert's
    assert emr.accuracy[0][0] == experts.accuracy[0][0]
    assert all(ref.path is None for ref in emr.checkpoints)
    single = rows["average", "parallel"].checkpoints[0].size_bytes
    assert emr.checkpoints[1].size_bytes > single  # masks and scales come on top of one model
