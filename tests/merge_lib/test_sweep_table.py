"""The long table of a sweep, and the paths that claims are judged on."""

import json

import pytest

from merge_lib.results import CheckpointRef, Row, StudyResults
from merge_lib.sweep_table import MeasuredCell, long_table, merge_paths

POSITIONS = (1.0, 0.0, 0.5)


def merged(position: float, regime: str, seed: int) -> Row:
    accuracy = [[0.9, 0.1], [1.0 - 0.5 * position, 0.5 + 0.5 * position]]
    return Row(
        f"linear-position-{position}",
        "merge",
        "linear",
        regime,
        seed,
        {"position": position},
        accuracy,
        0.1,
        [CheckpointRef(None, "xxh3:1", 10)],
        {"average_accuracy": sum(accuracy[-1]) / 2, "forgetting": None},
        probes=[{"clean": 0.7}, {"clean": 0.8}],
    )


def cell(shared: float, *, workload: str = "cues") -> MeasuredCell:
    entries = [
        {"label": f"linear-position-{p}", "method": "linear", "family": "linear", "params": {"position": p}}
        for p in POSITIONS
    ]
    rows = [
        merged(p, regime, seed) for p in POSITIONS for regime in ("parallel", "sequential") for seed in (0, 1)
    ]
    base = Row("base", "reference", "base", None, None, {}, [[0.2, 0.3]] * 2, 1.0, [], {})
    config = {"methods": entries, "workload": {"name": workload, "shared": shared}, "description": ""}
    results = StudyResults(
        study="s",
        run_id=f"s-{shared}",
        description="",
        workload=workload,
        scenario="",
        tasks=["colour", "noise"],
        seeds=[0, 1],
        chance=[0.1, 0.1],
        data={},
        config=config,
        environment={},
        started_at="2026-01-01T00:00:00+00:00",
        elapsed_s=1.0,
        rows=[base, *rows],
    )
    return MeasuredCell({"workload.shared": str(shared)}, results)


def test_every_number_is_a_line_with_its_levels():
    table = long_table([cell(0.0), cell(1.0)])
    of_merge = 2 * 2 + 2 + 1  # accuracies, probes, and the one metric that is defined
    assert len(table) == 2 * (3 * 2 * 2 * of_merge + 2 * 2)
    one = table[
        (table["workload.shared"] == "0.0")
        & (table.label == "linear-position-0.5")
        & (table.regime == "parallel")
        & (table.seed == "1")
    ]
    assert set(one.family) == {"linear"}
    assert json.loads(one.params.iloc[0]) == {"position": 0.5}
    values = {(line.stage, line.measure): line.value for line in one.itertuples()}
    assert values[2, "accuracy/colour"] == 0.75
    assert values[1, "probe/clean"] == 0.7
    assert values[2, "average_accuracy"] == 0.75
    assert (2, "forgetting") not in values
    assert set(table[table.label == "base"].seed) == {""}


def test_paths_run_from_the_first_endpoint_to_the_second():
    paths = merge_paths([cell(0.0)])
    assert {(path.protocol, path.regime, path.seed) for path in paths} == {
        ("unshared", regime, seed) for regime in ("parallel", "sequential") for seed in (0, 1)
    }
    assert paths[0].positions == (0.0, 0.5, 1.0)
    assert paths[0].accuracy == {"colour": (1.0, 0.75, 0.5), "noise": (0.5, 0.75, 1.0)}
    assert paths[0].ends == {"colour": 0.0, "noise": 1.0}


def test_a_shared_cue_counts_once():
    path = merge_paths([cell(1.0)])[0]
    assert (path.protocol, set(path.accuracy), path.ends) == ("shared", {"colour"}, {"colour": 0.0})


@pytest.mark.parametrize("other", [cell(0.5), cell(0.0, workload="vision")])
def test_other_studies_have_no_paths(other):
    assert merge_paths([other]) == []
