"""The study that compares every method, on two sequences of tasks."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flows.axes import load_cells
from merge_lib import catalogue

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies" / "methods.yaml"


@pytest.fixture(params=("five", "ten"))
def study(request):
    return next(cell.study for cell in load_cells(STUDY) if cell.levels == {"sequence": request.param})


def test_every_method_of_the_package_stands_in_it_as_it_comes(study):
    plain = {entry.method for entry in study.methods if entry.search is None}
    assert plain == set(catalogue.builtin_methods())


def test_its_tasks_are_made_by_the_data_stages(study):
    made = YAML(typ="safe").load((ROOT / "params.yaml").read_text())["tasks"]
    locked = YAML(typ="safe").load((ROOT / "dvc.lock").read_text())["stages"]
    assert set(study.tasks) <= made.keys()
    assert {f"task@{task}" for task in study.tasks} <= locked.keys()
    digits = [digit for task in study.tasks for digit in made[task]["classes"]]
    assert sorted(digits) == [str(digit) for digit in range(10)]


def test_both_ask_for_the_same_rows_with_five_seeds():
    five, ten = (cell.study for cell in load_cells(STUDY))
    assert five.methods == ten.methods
    assert five.seeds == ten.seeds == (0, 1, 2, 3, 4)
    assert (len(five.tasks), len(ten.tasks)) == (5, 10)
    assert not five.keep_merged
    assert five.workload == ten.workload
