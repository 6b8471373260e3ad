"""The command line of the data stages."""

from pathlib import Path

import pytest

from merge_lib.workloads.vision.data import read_snapshot
from merge_lib.workloads.vision.prepare import main, read_params

PARAMS = """\
glyphs: {{count: 124, size: 8, seed: 0, validation: 0.5}}
split: {{seed: 0, validation: 0.1, test: 0.4}}
tasks:
  digits-01: {{raw: {raw}, classes: ["0", "1"]}}
other: {{left: alone}}
"""


@pytest.fixture
def params(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS.format(raw=Path("data/raw/digits.csv.gz").resolve()))
    return path


def run(params: Path, *arguments: str) -> int:
    return main(["--params", str(params), "--data", str(params.parent / "data"), *arguments])


def test_task_stage_writes_a_snapshot(params):
    assert run(params, "task", "digits-01") == 0
    snapshot = read_snapshot(params.parent / "data" / "tasks" / "digits-01.safetensors")
    assert len(snapshot.splits["test"].images) == 144


def test_glyph_stage_writes_a_snapshot(params):
    assert run(params, "glyphs") == 0
    snapshot = read_snapshot(params.parent / "data" / "pretraining" / "glyphs.safetensors")
    assert len(snapshot.classes) == 62


def test_drawn_stage_writes_a_task_with_a_test_split(params):
    drawn = "drawn:\n  letters: {count: 248, size: 8, seed: 0, validation: 0.25, test: 0.25}\n"
    params.write_text(params.read_text() + drawn)
    assert run(params, "drawn", "letters") == 0
    snapshot = read_snapshot(params.parent / "data" / "tasks" / "letters.safetensors")
    assert len(snapshot.classes) == 62
    assert set(snapshot.splits) == {"train", "validation", "test"}


def test_unknown_drawn_task_is_named(params, capsys):
    assert run(params, "drawn", "letters") == 1
    assert "Section `drawn` of the parameters has no task 'letters'" in capsys.readouterr().err


def test_a_task_without_classes_has_all(params):
    params.write_text(params.read_text().replace(', classes: ["0", "1"]', ""))
    assert run(params, "task", "digits-01") == 0
    snapshot = read_snapshot(params.parent / "data" / "tasks" / "digits-01.safetensors")
    assert snapshot.classes == tuple("0123456789")


def test_a_data_set_of_the_hub_that_is_not_here_says_how_to_get_it(params, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(params.parent / "hub"))
    params.write_text(
        params.read_text() + "hub: {cifar-100: {dataset: uoft-cs/cifar100, size: 32, colour: true}}\n"
    )
    assert run(params, "task", "cifar-100") == 1
    message = capsys.readouterr().err
    assert "Data set 'uoft-cs/cifar100' is not on this machine" in message
    assert str(params.parent / "hub" / "datasets--uoft-cs--cifar100") in message
    assert "hf download uoft-cs/cifar100 --repo-type dataset" in message


def test_unknown_task_names_the_nearest(params, capsys):
    assert run(params, "task", "digits-10") == 1
    assert "no task 'digits-10'; did you mean 'digits-01'?" in capsys.readouterr().err


def test_missing_raw_data_is_named(params, capsys):
    params.write_text(PARAMS.format(raw="gone.csv.gz"))
    assert run(params, "task", "digits-01") == 1
    assert "Raw data 'gone.csv.gz' of task 'digits-01' does not exist" in capsys.readouterr().err
    assert not (params.parent / "data").exists()


def test_all_wrong_parameters_are_listed(params, capsys):
    text = params.read_text().replace("test: 0.4", "test: 4").replace("count: 124", "number: 124")
    params.write_text(text)
    assert run(params, "glyphs") == 1
    message = capsys.readouterr().err
    assert "split.test: Input should be less than 1" in message
    assert "glyphs.count: Field required" in message
    assert "glyphs.number: Extra inputs are not permitted" in message


@pytest.mark.parametrize("content", [None, "tasks: [", "just text"])
def test_unreadable_parameters(params, capsys, content):
    params.unlink() if content is None else params.write_text(content)
    assert run(params, "glyphs") == 1
    assert f"Parameters '{params}'" in capsys.readouterr().err


def test_committed_parameters_make_five_tasks_of_two_digits_and_ten_of_one():
    tasks = read_params(Path("params.yaml")).tasks
    pairs, single = list(tasks.values())[:5], list(tasks.values())[5:15]
    assert [task.classes for task in pairs] == [(str(d), str(d + 1)) for d in range(0, 10, 2)]
    assert [task.classes for task in single] == [(str(d),) for d in range(10)]


def test_committed_parameters_make_the_snapshots_of_the_cue_studies():
    params = read_params(Path("params.yaml"))
    assert params.tasks["digits"].classes == tuple("0123456789")
    assert params.drawn["characters"].test > 0
    assert params.hub == {}


def test_names_and_templates_of_a_task_are_kept_and_checked(params, capsys):
    told = ', names: {"0": nought}, templates: ["a {}"]}'
    params.write_text(params.read_text().replace(', classes: ["0", "1"]}', ', classes: ["0", "1"]' + told))
    assert run(params, "task", "digits-01") == 0
    snapshot = read_snapshot(params.parent / "data" / "tasks" / "digits-01.safetensors")
    assert (snapshot.names, snapshot.templates) == (("nought", "1"), ("a {}",))
    params.write_text(params.read_text().replace('{"0": nought}', '{"7": seven}'))
    assert run(params, "task", "digits-01") == 1
    assert "`names` of task 'digits-01' has classes that the task lacks: '7'" in capsys.readouterr().err
