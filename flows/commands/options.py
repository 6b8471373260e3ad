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
OfStudy = Annotated[
    Path | None, typer.Option("--study", metavar="STUDY.yaml", help="The study that made the checkpoint.")
]
OfRun = Annotated[
    str | None, typer.Option("--run", metavar="RUN", help="Or a run of it; `latest` is the newest.")
]
Levels = Annotated[
    list[str] | None,
    typer.Option(
        "--level",
        metavar="AXIS=LEVEL",
        help="Of a --study with axes, the level of one that decides the model; may be repeated.",
    ),
]
OfModel = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="MODEL", help="Or the model that it is of: a folder, or a name on the hub."
    ),
]
OnlyMethods = Annotated[list[str] | None, typer.Option(help="Only these; may be repeated.")]
Rounds = Annotated[int, typer.Option(min=1, help="Medians are over so many.")]
Threads = Annotated[int, typer.Option(min=1)]
Checkpoints = Annotated[
    Path | None, typer.Option(help="Where to write and keep the checkpoints; default: a temporary one.")
]
