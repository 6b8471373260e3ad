"""From the runs of a sweep to its table, its report and its record in MLflow."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from merge_lib.claims import Claim, judge
from merge_lib.report.render import ReportFiles, write_figures, write_html, write_markdown
from merge_lib.report.sweep import Sweep as Reported
from merge_lib.report.sweep import best_of, compose_sweep
from merge_lib.sweep_table import MeasuredCell, long_table, merge_paths
from tasks.delivery import Courier
from tasks.journal import results_of
from tasks.payloads import MetricPoint, RunPayload
from tasks.project import Project
from tasks.reporting import now_ms
from tasks.sweeps import Sweep, sweep_folder

TABLE = "sweep.parquet"
VERDICTS = {"confirmed": 1.0, "undecided": 0.0, "refuted": -1.0}


@dataclass(frozen=True)
class SweepReport:
    """What a finished sweep says."""

    claims: list[Claim]
    files: ReportFiles
    table: Path


def report_sweep(project: Project, sweep: Sweep) -> SweepReport:
    """Write table and report of a sweep whose runs are finished, and tell MLflow."""
    written = write_sweep(project, sweep)
    _record(project, sweep, written.claims, [written.files.html, written.files.markdown, written.table])
    return written


def write_sweep(project: Project, sweep: Sweep) -> SweepReport:
    """Write table and report of a sweep whose runs are finished."""
    cells = measured_cells(project, sweep)
    claims = judge(merge_paths(cells))
    folder = sweep_folder(project, sweep.sweep_id)
    table = folder / TABLE
    long_table(cells).to_parquet(table, index=False)
    return SweepReport(claims, _write_report(folder / "report", sweep, cells, claims), table)


def measured_cells(project: Project, sweep: Sweep) -> list[MeasuredCell]:
    """The results of every cell."""
    return [
        MeasuredCell(cell.levels, results_of(project, cell.run_id))
        for cell in sweep.cells
        if cell.run_id is not None
    ]


def _write_report(out: Path, sweep: Sweep, cells: list[MeasuredCell], claims: list[Claim]) -> ReportFiles:
    reports = {cell.results.run_id: f"../../{cell.results.run_id}/report/report.html" for cell in cells}
    description = cells[0].results.description
    report = compose_sweep(
        Reported(
            sweep.study, sweep.sweep_id, description, sweep.command, sweep.elapsed_s, cells, claims, reports
        )
    )
    out.mkdir(parents=True, exist_ok=True)
    figures = write_figures(report.figures, out / "figures")
    html = write_html(report, out / "report.html")
    return ReportFiles(html, write_markdown(report, out / "report.md", figures), tuple(figures.values()))


def _record(project: Project, sweep: Sweep, claims: list[Claim], artifacts: list[Path]) -> None:
    """One run of MLflow for the sweep, in the study's experiment: its claims, its files, the runs of its cells."""
    started = datetime.fromisoformat(sweep.started_at).astimezone(UTC).timestamp()
    metrics = [MetricPoint("elapsed_s", sweep.elapsed_s)]
    metrics += [MetricPoint(f"claim/{claim.name}", VERDICTS[claim.verdict]) for claim in claims]
    verdicts = [f"- **{claim.statement}**: {claim.verdict}" for claim in claims]
    runs = [f"- {best_of(cell)} Run `{cell.results.run_id}`." for cell in measured_cells(project, sweep)]
    note = "\n\n".join(
        filter(None, ("\n".join(verdicts), "\n".join(runs), "All of it: `report.html`, under Artifacts."))
    )
    payload = RunPayload(
        key=sweep.sweep_id,
        experiment=sweep.study,
        name=sweep.sweep_id,
        parent=None,
        tags={
            "mergeline.kind": "sweep",
            "mergeline.study": sweep.study,
            "mergeline.run": sweep.sweep_id,
            "mlflow.note.content": note,
        },
        params={"cells": str(len(sweep.cells))},
        started_ms=round(started * 1000),
        ended_ms=now_ms(),
        metrics=tuple(metrics),
        artifacts={str(path): "" for path in artifacts},
    )
    courier = Courier(project, sweep.sweep_id)
    courier.record(payload)
    courier.close()
