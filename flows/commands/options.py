"""Options and arguments that several commands have, each declared once."""

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="The run's name; `latest` is the newest.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Replace a setting, e.g. seeds=[0] or methods.ties.params.density=0.5.",
    ),
]
OnlyMethods = Annotated[list[str] | None, typer.Option(help="Only these; may be repeated.")]
Rounds = Annotated[int, typer.Option(min=1, help="Medians are over so many.")]
Threads = Annotated[int, typer.Option(min=1)]
Checkpoints = Annotated[
    Path | None, typer.Option(help="Where to write and keep the checkpoints; default: a temporary one.")
]
