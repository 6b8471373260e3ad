"""What the command line shows: results on standard output, progress and remarks on standard error."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

out = Console()
err = Console(stderr=True)


def print_json(value: Any) -> None:
    """The machine-readable answer: one JSON value, sorted keys, nothing else on standard output."""
    print(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False))  # noqa: T201


def shown(path: Path) -> str:
    """A path as a reader would type it: from the working directory, if it lies below."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


@contextmanager
def work_shown(title: str, total: float) -> Iterator[tuple[Progress, Any]]:
    """A progress bar with the time left, on standard error."""
    columns = (
        SpinnerColumn(),
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, speed_estimate_period=60) as progress:
        yield progress, progress.add_task(title, total=total)
