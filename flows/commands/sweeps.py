"""What the command line shows of a sweep."""

from dataclasses import asdict
from typing import Any

from flows.console import out, print_json, shown
from merge_lib.claims import judge
from merge_lib.sweep_table import merge_paths
from tasks.project import Project
from tasks.sweeps import load_sweep, sweep_folder


def show_sweep(project: Project, sweep_id: str, *, as_json: bool) -> None:
    """The claims, the runs, and where the report lies."""
    from rich.table import Table

    from tasks.sweep_reporting import TABLE, measured_cells

    sweep = load_sweep(project, sweep_id)
    claims = judge(merge_paths(measured_cells(project, sweep)))
    folder = sweep_folder(project, sweep_id)
    if as_json:
        plain: dict[str, Any] = {"sweep": sweep_id, "table": shown(folder / TABLE)}
        plain["cells"] = [{"levels": cell.levels, "run": cell.run_id} for cell in sweep.cells]
        print_json({**plain, "claims": [asdict(claim) for claim in claims]})
        return
    table = Table(title=f"{sweep.study}: {len(sweep.cells)} combinations", title_justify="left")
    for heading in (*sweep.cells[0].levels, "run"):
        table.add_column(heading)
    for cell in sweep.cells:
        table.add_row(*cell.levels.values(), cell.run_id)
    out.print(table)
    for claim in claims:
        out.print(f"{claim.statement}: [bold]{claim.verdict}[/]", soft_wrap=True)
    out.print(f"Report:  {shown(folder / 'report' / 'report.html')}", soft_wrap=True)
    out.print(f"Table:   {shown(folder / TABLE)}", soft_wrap=True)
    out.print("MLflow:  [bold]mergeline ui[/] opens the pages", soft_wrap=True)
