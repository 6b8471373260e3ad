"""The progress bar of a run, and how a run that is stopped says how to go on."""

import io
import json
from dataclasses import asdict

import pytest
from rich.console import Console
from rich.progress import Progress

from flows.commands.run import _stopping_cleanly
from flows.estimates import Estimates
from flows.launch import _Meter
from tasks.progress import Step, StoppedError
from tasks.project import Project
from tasks.runs import list_runs, start_run


@pytest.mark.parametrize(("is_last_recorded", "completed"), [(True, 10.0), (False, 4.0)])
def test_the_record_fills_what_is_left_of_the_bar(is_last_recorded, completed):
    estimates = Estimates({"train": 2.0, "merge": 3.0}, 1e6, is_measured=True, total_s=10.0)
    bars = Progress(console=Console(file=io.StringIO()))
    bar = bars.add_task("", total=estimates.total_s)
    meter = _Meter(estimates, bars, bar, is_last_recorded=is_last_recorded)
    for step in (
        Step("train", "a", 0.5),
        Step("train", "a", 1.0),
        Step("train", "b", 1.0),
        Step("merge", "c", 1.0, reused=True),
        Step("record", "record in MLflow", 0.0),
        Step("record", "record in MLflow", 0.5),
    ):
        meter.step(step)
    assert bars.tasks[0].completed == (7.0 if is_last_recorded else 4.0)
    assert bars.tasks[0].description == "record in MLflow"
    meter.step(Step("record", "record in MLflow", 1.0))
    assert bars.tasks[0].completed == completed


def test_a_stopped_run_is_named_even_if_another_began_later(tmp_path, capsys):
    project = Project(tmp_path)

    def run_beside_another() -> None:
        with _stopping_cleanly({}):
            run = start_run(project, "mine", {}, "mergeline run mine.yaml")
            later = {**asdict(run), "run_id": "theirs", "started_at": "2999-01-01T00:00:00+00:00"}
            (project.runs / "theirs").mkdir()
            (project.runs / "theirs" / "run.json").write_text(json.dumps(later))
            raise StoppedError("asked to")

    with pytest.raises(SystemExit) as ended:
        run_beside_another()
    assert ended.value.code == 130
    assert list_runs(project)[-1] == "theirs"
    assert "mergeline run --resume mine-" in " ".join(capsys.readouterr().err.split())


def test_a_run_that_goes_on_names_itself_and_one_that_never_began_its_words(capsys):
    for asked, said in (({"run_id": "mine"}, "mergeline run --resume mine"), ({}, "the same command")):
        with pytest.raises(SystemExit), _stopping_cleanly(asked):
            raise StoppedError("asked to")
        assert said in " ".join(capsys.readouterr().err.split())
