"""Axes of a study: every combination is a study of its own, checked before anything runs."""

from pathlib import Path

import pytest

from flows.axes import load_cell, load_cells
from flows.config import load_study
from merge_lib.errors import SpecError

STUDY = """\
study: tiny
workload:
  name: vision
  scenario: class-incremental
tasks: [digits-01, digits-23]
seeds: [0, 1]
methods: [average, {method: linear, each: {position: [0, 0.5]}}]
axes:
  workload.fine_tuning.epochs: [1, 2]
  order:
    up: {}
    down: {tasks: [digits-23, digits-01]}
"""


@pytest.fixture
def study(tmp_path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(SpecError) as caught:
        load_cells(path, overrides)
    return str(caught.value)


def test_every_combination_is_a_study(study):
    cells = load_cells(study)
    assert [cell.title for cell in cells] == [
        f"workload.fine_tuning.epochs={epochs}, order={order}"
        for epochs in (1, 2)
        for order in ("up", "down")
    ]
    assert [cell.study.workload.fine_tuning.epochs for cell in cells] == [1, 1, 2, 2]
    assert [cell.study.tasks[0] for cell in cells] == ["digits-01", "digits-23"] * 2
    assert cells[1].study.levels == {"workload.fine_tuning.epochs": "1", "order": "down"}


def test_a_file_without_axes_is_one_cell(study):
    (cell,) = load_cells(study, ["axes=null"])
    assert (cell.title, cell.study) == ("", load_study(study, ["axes=null"]))


def test_one_cell_can_be_named(study):
    levels = {"workload.fine_tuning.epochs": "2", "order": "down"}
    assert load_cell(study, (), levels) == load_cells(study)[3].study
    with pytest.raises(SpecError, match="axis order has no level 'dwon'; did you mean 'down'"):
        load_cell(study, (), {**levels, "order": "dwon"})
    with pytest.raises(
        SpecError, match=r"has the axes: workload\.fine_tuning\.epochs, order; a level was named of: order"
    ):
        load_cell(study, (), {"order": "up"})


def test_errors_of_all_cells_are_told_once_with_the_level_that_makes_them(study):
    said = refusal(study, "axes={workload.fine_tuning.epochs: [0, 1, -1], workload.modle.width: [3]}")
    assert said.startswith(f"3 errors in {study}; nothing was run.")
    assert (
        "axis workload.fine_tuning.epochs, level 0: workload.fine_tuning.epochs: input should be greater"
        in said
    )
    assert "axis workload.fine_tuning.epochs, level -1: " in said
    assert said.count("unknown key 'modle'. Did you mean 'model'?") == 1


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ("{a: 3}", "axes.a: expected a list of values under the setting's dotted key, or names of levels"),
        ("[1]", "axes: expected for each axis a list of values"),
        ("{}", "axes: expected for each axis a list of values"),
        ("{seeds: []}", "axes.seeds: expected a list of values"),
        ("{base.seed: [1, 1]}", "axes.base.seed: a value stands there twice; give each once"),
    ],
)
def test_axes_of_another_shape_are_refused(study, axes, said):
    assert said in refusal(study, f"axes={axes}")


def test_a_command_for_one_study_refuses_several(study):
    with pytest.raises(SpecError, match=r"study.yaml:8: the study has `axes`, so it is several studies"):
        load_study(study)


def test_each_makes_a_row_of_every_value(study):
    study.write_text(
        STUDY.replace("- average", "").replace(
            "methods: [average, {method: linear, each: {position: [0, 0.5]}}]",
            "methods: [{method: ties, label: t, params: {trim: tensor}, each: {density: [0.5, 1], scale: [1, 2]}}]",
        )
    )
    rows = load_study(study, ["axes=null"]).methods
    assert [row.label for row in rows] == [
        "t-density-0.5-scale-1",
        "t-density-0.5-scale-2",
        "t-density-1-scale-1",
        "t-density-1-scale-2",
    ]
    assert {row.family for row in rows} == {"t"}
    assert rows[1].params == {"density": 0.5, "scale": 2.0, "trim": "tensor"}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "methods.linear.each.position=[0, 7]",
            "methods.1.position: input should be less than or equal to 1, got 7",
        ),
        ("methods.linear.params={position: 0.1}", "position stands in both `params` and `each`"),
        ("methods.linear.each={postion: [1]}", "unknown key 'postion'. Did you mean 'position'?"),
        ("methods.linear.each.position=[]", "at least 1 item"),
        ("methods.linear.each.position=[0.1, 0.1]", "two rows have the label linear-position-0.1"),
    ],
)
def test_wrong_values_of_each_are_refused(study, override, said):
    assert said in refusal(study, "axes=null", override)


def test_a_base_for_each_seed_is_pretrained(study):
    assert load_study(study, ["axes=null", "base.per_seed=true"]).base.per_seed
    said = refusal(study, "axes=null", "base={per_seed: true, checkpoint: base.safetensors}")
    assert "`per_seed` pre-trains a base for each seed, but `checkpoint` names one for all" in said
