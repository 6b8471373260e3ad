"""`mergeline cost`: what a study of pretrained models would cost on a GPU."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.options import AsJson, Overrides
from flows.console import out, print_json

if TYPE_CHECKING:
    from flows.costs import Cost

_HELP = """Work out GPU hours, memory and disk of a study on a pretrained model; runs nothing, needs no weights.

The model's config.json and the sizes of the tasks (sizes.json beside the study) decide; docs/reproducing.md has the
formulas. The rates' defaults are those of one H100.
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("cost", help=_HELP, short_help="Work out what a study would cost on a GPU.")(cost)


def cost(
    study: Annotated[Path, typer.Argument(help="The study's YAML file.")],
    overrides: Overrides = None,
    config: Annotated[
        Path | None,
        typer.Option(help="The model's config.json. Default: its own, or in `shapes` beside the study."),
    ] = None,
    tflops: Annotated[float, typer.Option(min=0.001, help="Of the GPU at the training's precision.")] = 989.0,
    eval_tflops: Annotated[float, typer.Option(min=0.001, help="In evaluation, in 32 bits.")] = 67.0,
    share: Annotated[float, typer.Option(min=0.001, max=1.0, help="Of all rates, that is reached.")] = 0.35,
    bandwidth: Annotated[float, typer.Option(min=0.001, help="Of the GPU's memory, in GB/s.")] = 3350.0,
    as_json: AsJson = False,
) -> None:
    """Print the cost of every combination of the study's axes."""
    from flows.costs import Rates, costs_of

    rates = Rates(tflops, eval_tflops, share, bandwidth)
    found = costs_of(study, overrides or (), rates, config)
    if as_json:
        print_json({"rates": asdict(rates), "cells": {name: asdict(one) for name, one in found.items()}})
        return
    _show(study.stem, found)


def _show(title: str, found: "dict[str, Cost]") -> None:
    from rich.table import Table

    table = Table(title=f"Cost of {title}", title_justify="left")
    headings = ("", "train", "eval", "train h", "eval h", "GPU GB", "disk GB")
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left", overflow="fold")
    for name, one in found.items():
        hours = (f"{one.train_h:.2f}", f"{one.evaluate_h:.2f}", f"{one.memory_gb:.1f}", f"{one.disk_gb:.1f}")
        table.add_row(name, str(one.trainings), str(one.evaluations), *hours)
    out.print(table)
    total = sum(one.train_h + one.evaluate_h for one in found.values())
    out.print(f"About {total:.1f} GPU hours in all, and {sum(one.disk_gb for one in found.values()):.0f} GB.")
