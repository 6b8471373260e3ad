"""`mergeline methods`: what can be merged with."""

from typing import Annotated

import typer

from flows.commands.options import AsJson
from flows.console import out, print_json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("methods", help="List the merge methods, their parameters and what they need.")(methods)


def methods(
    name: Annotated[str | None, typer.Argument(help="One method, with its parameters explained.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the registered methods."""
    from merge_lib import registry

    infos = [registry.get(name)] if name else list(registry.methods())
    if as_json:
        print_json([info.to_dict() for info in infos])
    elif name:
        _show_one(infos[0])
    else:
        _show_all(infos)


def _show_all(infos: list) -> None:
    from rich.table import Table

    table = Table(title=f"{len(infos)} merge methods", title_justify="left")
    for heading in ("method", "title", "needs base", "order-free", "scope", "parameters"):
        table.add_column(heading)
    for info in infos:
        params = ", ".join(f"{parameter.name}={parameter.default}" for parameter in info.parameters)
        marks = ["yes" if flag else "no" for flag in (info.needs_base, info.order_free)]
        table.add_row(info.name, info.title, *marks, info.scope, params or "–")
    out.print(table)
    out.print("`mergeline methods NAME` explains one.")


def _show_one(info: object) -> None:
    out.print(f"[bold]{info.name}[/]  {info.title}  {info.paper}")
    out.print(info.summary, markup=False)
    if info.observation is not None:
        out.print(
            f"Needs observations of kind {info.observation} of each expert; `mergeline observe` collects them."
        )
    for parameter in info.parameters:
        out.print(
            f"  {parameter.name} (default {parameter.default}): {parameter.domain}. {parameter.description}",
            markup=False,
        )
