"""`mergeline plan`: what a study would run, from headers and records alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.options import AsJson, Overrides
from flows.console import err, out, print_json
from tasks.project import Project

if TYPE_CHECKING:
    from flows.config import StudyConfig


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plan", help="Say what a study would run, what is finished already, and what it will cost.")(
        plan
    )


def plan(
    study: Annotated[Path, typer.Argument(help="The study's YAML file.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Look every step of the study up; run nothing."""
    from rich.markup import escape

    from flows.axes import load_cells
    from flows.environment import prepare

    cells = load_cells(study, overrides or ())
    config = cells[0].study
    project = Project.find()
    prepare(project)
    from flows.estimates import Estimates, plan_all, summarise_plan

    with err.status("looking every step up"):
        steps, is_data_known = plan_all(project, [cell.study for cell in cells])
        estimates = Estimates.of_project(project, steps)
    lines = summarise_plan(steps, estimates)
    refusal = _refusal(project, [cell.study for cell in cells])
    if as_json:
        remarks = {"data_up_to_date": is_data_known, "estimates_measured": estimates.is_measured}
        remarks |= {"missing_data": refusal}
        remarks |= {"keep_merged": config.keep_merged, "cells": len(cells)}
        print_json({"study": config.study, "steps": lines, **remarks})
        return
    _show(config.study, lines, is_data_known=is_data_known, is_measured=estimates.is_measured)
    if len(cells) > 1:
        out.print(
            f"{len(cells)} combinations of the axes; what they share counts once for each until it is done."
        )
    if not config.keep_merged:
        out.print(
            "Merges are evaluated as they are made and not written (keep_merged is false); the states of continual "
            "methods are."
        )
    if refusal:
        out.print(f"[bold red]It cannot run yet.[/] {escape(refusal)}", soft_wrap=True)


def _refusal(project: Project, studies: list["StudyConfig"]) -> str | None:
    """Why the studies could not begin: data that nothing makes."""
    from flows.preflight import snapshots_of
    from merge_lib.errors import DataError
    from tasks.versioning import check_stages

    try:
        check_stages(project, snapshots_of(studies))
    except DataError as refused:
        return str(refused)
    return None


def _show(
    study: str, lines: list[dict[str, int | float | str]], *, is_data_known: bool, is_measured: bool
) -> None:
    from rich.table import Table

    table = Table(title=f"Plan of {study}", title_justify="left")
    for heading in ("step", "in all", "finished", "to run", "about s", "about MB"):
        table.add_column(heading, justify="left" if heading == "step" else "right")
    for line in (line for line in lines if line["steps"]):
        mb = float(line["estimated_bytes"]) / 1e6
        cells = (
            line["kind"],
            line["steps"],
            line["cached"],
            line["to_run"],
            line["estimated_s"],
            f"{mb:.1f}",
        )
        table.add_row(*map(str, cells))
    out.print(table)
    total_s = sum(float(line["estimated_s"]) for line in lines)
    source = "measured here" if is_measured else "rough guesses: nothing has run here yet"
    out.print(f"About {total_s:.0f} s of work on this machine ({source}), and the start of Prefect's server.")
    if not is_data_known:
        out.print(
            "The data is not up to date, so what depends on it cannot be looked up: all of it counts as to run."
        )
