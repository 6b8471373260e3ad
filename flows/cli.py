"""The command line `mergeline`. Each command is one module of `flows.commands`; heavy imports wait until they run."""

import gc
import sys
from typing import Any

import typer

from flows.commands import bench, convert, doctor, fold, inspect, merge, methods, plan, run, sync, ui, workers
from flows.console import err
from merge_lib.errors import MergeError, SpecError

_OBJECTS_BETWEEN_COLLECTIONS = (
    50_000  # with Python's 700 a tenth of a short command goes into looking for garbage
)
app = typer.Typer(
    name="mergeline",
    help="Fine-tune on one task after another, merge the checkpoints, measure what each merge kept and forgot.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
run.register(app)
plan.register(app)
inspect.register(app)
merge.register(app)
fold.register(app)
methods.register(app)
convert.register(app)
sync.register(app)
bench.register(app)
workers.register(app)
ui.register(app)
doctor.register(app)


def main() -> Any:
    """Run the command; an error of ours is told without a traceback.

    Exit status: 0 done, 1 work failed, 2 the request was wrong, 130 stopped by the user.
    """
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, 20, 50)
    try:
        return app()
    except MergeError as failure:
        err.print(f"[bold red]{_title(failure)}[/] ", end="")
        err.print(str(failure), markup=False, highlight=False, soft_wrap=True)
        for note in getattr(failure, "__notes__", ()):
            err.print(f"  {note}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2 if isinstance(failure, SpecError) else 1)
    except OSError as refused:
        err.print("[bold red]Failed.[/] ", end="")
        err.print(f"The system refused: {refused}. What was finished is kept.", markup=False, soft_wrap=True)
        err.print("  `mergeline doctor` looks at folders, disk and ports.")
        sys.exit(1)


def _title(failure: MergeError) -> str:
    return "Wrong input." if isinstance(failure, SpecError) else "Failed."


if __name__ == "__main__":
    main()
