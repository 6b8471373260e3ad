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
    meter = _Meter(estimates, bars, bar, is_last_recorded="sweep_id" not in asked)
    stop_listening = progress.listen(meter.step)
    try:
        return flow(**asked)
    finally:
        stop_listening()


class _Meter:
    """Adds up the estimated seconds of the steps done.

    Where the record is what is done last, its delivery fills what is left of the bar: nobody can estimate it.
    """

    def __init__(self, estimates: Estimates, bars: Progress, bar: TaskID, *, is_last_recorded: bool) -> None:
        self.estimates, self.bars, self.bar = estimates, bars, bar
        self.is_last_recorded = is_last_recorded
        self.done: dict[tuple[str, str], float] = {}
        self.left_s = estimates.total_s
        self.record_s: float | None = None
        bars.update(bar, description="data")

    def step(self, step: progress.Step) -> None:
        """One report of the work: the share of a step that is done."""
        key = (step.kind, step.label)
        gained = max(step.share_done - self.done.get(key, 0.0), 0.0)
        self.done[key] = max(step.share_done, self.done.get(key, 0.0))
        weight = 0.0 if step.reused else self._seconds(step.kind)
        self.left_s = max(self.left_s - gained * weight, 0.0)
        text = step.label if step.kind in step.label else f"{step.kind} {step.label}"
        self.bars.update(self.bar, advance=gained * weight, description=text)

    def _seconds(self, kind: str) -> float:
        if kind != "record" or not self.is_last_recorded:
            return self.estimates.seconds(kind)
        if self.record_s is None:
            self.record_s = self.left_s
        return self.record_s
