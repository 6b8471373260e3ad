"""The command line `mergeline`. Each command is one module of `flows.commands`; heavy imports wait until they run.

A process loads the module of the command that is asked for, and no other: each takes a few milliseconds.
"""

import gc
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from merge_lib.errors import MergeError, SpecError

if TYPE_CHECKING:
    import typer

# with Python's 700 a tenth of a short command goes into looking for garbage, and imports leave none
_OBJECTS_BETWEEN_COLLECTIONS = 100_000
_HOMES = {  # the module of each command, in the order of the help
    "run": "run",
    "plan": "plan",
    "cost": "cost",
    "report": "inspect",
    "audit": "audit",
    "plot": "plot",
    "forgetting": "forgetting",
    "lineage": "inspect",
    "verify": "inspect",
    "merge": "merge",
    "fold": "fold",
    "prototypes": "answer",
    "answer": "answer",
    "observe": "observe",
    "forecast": "forecast",
    "methods": "methods",
    "convert": "convert",
    "export": "export",
    "judge": "judge",
    "sync": "sync",
    "bench": "bench",
    "deploy": "workers",
    "workers": "workers",
    "ui": "ui",
    "doctor": "doctor",
}


def make_app(arguments: Sequence[str] = ()) -> "typer.Typer":
    """The command line for these arguments: with the command that they begin with, else with all commands."""
    import typer

    app = typer.Typer(
        name="mergeline",
        help="Fine-tune on one task after another, merge the checkpoints, measure what each merge kept and forgot.",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(lambda: None)  # so that a single command keeps its name
    asked = [_HOMES[name] for name in arguments[:1] if name in _HOMES]
    for module in asked or dict.fromkeys(_HOMES.values()):
        import_module(f"flows.commands.{module}").register(app)
    return app


def main() -> Any:
    """Run the command; an error of ours is told without a traceback.

    Exit status: 0 done, 1 work failed, 2 the request was wrong, 130 stopped by the user.
    """
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, 20, 50)
    try:
        return make_app(sys.argv[1:])()
    except MergeError as failure:
        _tell(failure)
        sys.exit(2 if isinstance(failure, SpecError) else 1)
    except OSError as refused:
        _tell_refusal(refused)
        sys.exit(1)
    finally:
        gc.freeze()  # else Python looks for garbage among all objects at its end, 70 ms after a merge


def _tell(failure: MergeError) -> None:
    from flows.console import err

    title = "Wrong input." if isinstance(failure, SpecError) else "Failed."
    err.print(f"[bold red]{title}[/] ", end="")
    err.print(str(failure), markup=False, highlight=False, soft_wrap=True)
    for note in getattr(failure, "__notes__", ()):
        err.print(f"  {note}", markup=False, highlight=False, soft_wrap=True)


def _tell_refusal(refused: OSError) -> None:
    from flows.console import err

    err.print("[bold red]Failed.[/] ", end="")
    err.print(f"The system refused: {refused}. What was finished is kept.", markup=False, soft_wrap=True)
    err.print("  `mergeline doctor` looks at folders, disk and ports.")


if __name__ == "__main__":
    main()
