"""A study with axes: every combination runs, is compared with the others, and goes on where it was stopped."""

from pathlib import Path

import pandas as pd
import pytest

from merge_lib.errors import MergeError
from tasks import progress
from tasks.journal import results_of
from tasks.runs import list_runs, load_run
from tasks.sweeps import load_sweep, sweep_folder

AXES = "axes={workload.fine_tuning.epochs: [1, 2]}"
SMALL = (
    AXES,
    "seeds=[0]",
    "methods=[average, {method: linear, each: {position: [0.0, 1.0]}}]",
    "references=[]",
)


@pytest.fixture
def sweep_study():
    """Runs the sweep in this process, and counts the steps that took work."""
    from flows.sweep import sweep_flow

    def run(*overrides: str, stop_after: int | None = None, **asked) -> tuple[str, list[str]]:
        worked: list[str] = []

        def listener(step: progress.Step) -> None:
            if not step.reused and step.share_done == 1.0:
                worked.append(step.kind)
            if stop_after is not None and worked.count("train") >= stop_after:
                progress.request_stop()

        stop_listening = progress.listen(listener)
        try:
            return sweep_flow(study="studies/digits.yaml", overrides=list(overrides), **asked), worked
        finally:
            stop_listening()
            progress.allow_work()

    return run


@pytest.mark.slow
def test_a_sweep_is_stopped_resumed_and_compared(project, sweep_study):
    with pytest.raises(MergeError, match=r"workload\.fine_tuning\.epochs=2: Stopped on request"):
        sweep_study(*SMALL, stop_after=5)
    (stopped,) = [path.parent.name for path in project.runs.glob("*/sweep.json")]
    begun = load_sweep(project, stopped)
    assert (begun.status, [cell.run_id is not None for cell in begun.cells]) == ("running", [True, True])
    assert load_run(project, begun.cells[0].run_id).status == "finished"

    sweep_id, worked = sweep_study(sweep_id=stopped)
    assert sweep_id == stopped
    assert "pretrain" not in worked
    assert worked.count("train") < 4
    sweep = load_sweep(project, sweep_id)
    assert sweep.status == "finished"
    assert [load_run(project, cell.run_id).status for cell in sweep.cells] == ["finished"] * 2
    epochs = [
        results_of(project, cell.run_id).config["workload"]["fine_tuning"]["epochs"] for cell in sweep.cells
    ]
    assert epochs == [1, 2]
    assert load_run(project, sweep.cells[1].run_id).command.endswith(
        "--level 'workload.fine_tuning.epochs=2'"
    )

    table = pd.read_parquet(sweep_folder(project, sweep_id) / "sweep.parquet")
    assert set(table["workload.fine_tuning.epochs"]) == {"1", "2"}
    assert {"average", "linear-position-0.0", "linear-position-1.0", "base"} <= set(table.label)
    page = (sweep_folder(project, sweep_id) / "report" / "report.html").read_text(encoding="utf-8")
    assert all(cell.run_id in page for cell in sweep.cells)


@pytest.mark.slow
def test_one_level_is_a_study_of_its_own(project, run):
    run_id, _ = run(*SMALL, levels={"workload.fine_tuning.epochs": "1"})
    assert results_of(project, run_id).config["levels"] == {"workload.fine_tuning.epochs": "1"}
    assert list_runs(project) == [run_id]
    assert not list(Path(project.runs).glob("*/sweep.json"))
