"""What the command line shows: results on standard output, progress and remarks on standard error.

rich is imported when `out` or `err` is first asked for: a merge that no terminal shows has no use for it.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    out: Console
    err: Console


def __getattr__(name: str) -> "Console":
    if name not in ("out", "err"):
        raise AttributeError(f"module 'flows.console' has no attribute '{name}'")
    return _console(is_error=name == "err")


@cache
def _console(*, is_error: bool) -> "Console":
    from rich.console import Console

    return Console(stderr=is_error)


def say(line: str, *, is_remark: bool = False) -> None:
    """A line as it is, numbers and paths in colours on a terminal; remarks go to standard error."""
    stream = sys.stderr if is_remark else sys.stdout
    if stream.isatty():
        _console(is_error=is_remark).print(line, markup=False, soft_wrap=True)
    else:
        print(line, file=stream)


def print_json(value: Any) -> None:
    """The machine-readable answer: one JSON value, sorted keys, nothing else on standard output."""
    print(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False))  # noqa: T201


def shown(path: Path) -> str:
    """A path as a reader would type it: from the working directory, if it lies below."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


@contextmanager
def work_shown(title: str, total: float) -> Iterator[tuple["Progress", Any]]:
    """A progress bar with the time left, on standard error."""
    from rich.progress import (
        BarColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        SpinnerColumn(),
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=_console(is_error=True), transient=True, speed_estimate_period=60
    ) as progress:
        yield progress, progress.add_task(title, total=total)


@contextmanager
def amounts_shown(title: str, total: float) -> Iterator[Callable[[int], None]]:
    """The same as a function that is told each amount that is done; nothing is shown where there is no terminal."""
    if not sys.stderr.isatty():
        yield lambda _done: None
        return
    with work_shown(title, total) as (bars, bar):
        yield partial(bars.advance, bar)
