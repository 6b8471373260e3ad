"""Runs the study flow in this process and turns its steps into a progress bar."""

from typing import Any

from rich.progress import Progress, TaskID

from flows.estimates import Estimates
from tasks import progress
from tasks.project import Project
from tasks.records import RecordStore


def launch(project: Project, asked: dict[str, Any], estimates: Estimates, bars: Progress, bar: TaskID) -> str:
    """Run the flow of a study, or of a sweep if `asked` names one; the bar counts in estimated seconds."""
    if "sweep_id" in asked:
        from flows.sweep import sweep_flow as flow
    else:
        from flows.study import study_flow as flow

    progress.allow_work()
    RecordStore(project.store).remove_leftovers()
    meter = _Meter(estimates, bars, bar)
    stop_listening = progress.listen(meter.step)
    try:
        return flow(**asked)
    finally:
        stop_listening()


class _Meter:
    """Adds up the estimated seconds of the steps done."""

    def __init__(self, estimates: Estimates, bars: Progress, bar: TaskID) -> None:
        self.estimates, self.bars, self.bar = estimates, bars, bar
        self.done: dict[tuple[str, str], float] = {}
        bars.update(bar, description="data")

    def step(self, step: progress.Step) -> None:
        """One report of the work: the share of a step that is done."""
        key = (step.kind, step.label)
        gained = max(step.share_done - self.done.get(key, 0.0), 0.0)
        self.done[key] = step.share_done
        weight = 0.0 if step.reused else self.estimates.seconds(step.kind)
        text = step.label if step.kind in step.label else f"{step.kind} {step.label}"
        self.bars.update(self.bar, advance=gained * weight, description=text)
