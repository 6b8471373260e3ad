"""`mergeline methods`: what can be merged with."""

from typing import Annotated

import typer

from flows.commands.options import AsJson
from flows.console import out, print_json

WIDTH_FOR_PARAMETERS = 130  # characters; a narrower terminal has no room for them


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
    from rich import box
    from rich.table import Table

    style = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False}
    table = Table(title=f"{len(infos)} merge methods", title_justify="left", **style)
    table.add_column("method", no_wrap=True)
    for heading in ("title", "base", "any order", "scope", "data"):
        table.add_column(heading, overflow="fold")
    is_wide = out.width >= WIDTH_FOR_PARAMETERS
    if is_wide:
        table.add_column("parameters", overflow="fold")
    for info in infos:
        params = ", ".join(f"{parameter.name}={parameter.default}" for parameter in info.parameters) or "–"
        base, order_free = ("yes" if flag else "no" for flag in (info.needs_base, info.order_free))
        data = "–" if info.data == "none" else info.data
        shown = (info.name, info.title, base, order_free, info.scope, data)
        table.add_row(*shown, *([params] if is_wide else []))
    out.print(table)
    out.print("base: needs it; any order: that of the experts changes nothing; data: what it is shown.")
    out.print("`mergeline methods NAME` explains one, with its parameters.")


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
