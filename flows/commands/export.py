"""`mergeline export`: a study's checkpoint as a folder that transformers or peft loads."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.options import AsJson, Levels, OfModel, OfRun, OfStudy
from flows.console import err, out, print_json, shown

if TYPE_CHECKING:
    from merge_lib.workloads.pretrained.exporting import Exported

_HELP = """Write a checkpoint of a study as a model folder for transformers, or as an adapter folder for peft.

The base, an expert or a merge; adapters are folded in, configuration and tokenizer are copied. `mergeline lineage`
prints where a run's checkpoints lie.

  mergeline export .mergeline/store/merge/…/model.safetensors merged --run latest
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export", help=_HELP, short_help="Write a checkpoint as a folder for transformers or peft.")(
        export
    )


def export(  # noqa: PLR0913, PLR0917 -- one for each option of the command
    checkpoint: Annotated[Path, typer.Argument(help="A safetensors file that a study made.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
    study: OfStudy = None,
    run: OfRun = None,
    model: OfModel = None,
    levels: Levels = None,
    dtype: Annotated[
        str | None, typer.Option(help="Of the weights: F32, BF16 or F16. Default: as they are.")
    ] = None,
    as_adapter: Annotated[
        bool, typer.Option("--adapter", help="The factors alone, for peft; nothing is folded in.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Export, and say what was written."""
    from flows.starting_model import starting_model
    from merge_lib.errors import SpecError

    if as_adapter and dtype is not None:
        raise SpecError(
            "--dtype is of a whole model, and --adapter writes factors as they are. Leave one out."
        )
    located, tuning = starting_model(study, run, model, levels=levels or ())
    from merge_lib.workloads.pretrained.exporting import export_adapter, export_model

    with err.status("exporting"):
        made = (
            export_adapter(checkpoint, target, located=located, tuning=tuning)
            if as_adapter
            else export_model(checkpoint, target, located=located, tuning=tuning, dtype=dtype)
        )
    if as_json:
        print_json({**asdict(made), "path": str(made.path)})
    else:
        _show(made, located.source)


def _show(made: "Exported", source: str) -> None:
    loaded = "AutoModel….from_pretrained" if made.form == "model" else "PeftModel.from_pretrained"
    out.print(
        f"{shown(made.path)}: {made.form} of {made.size_bytes / 1e6:.1f} MB, digest {made.digest}; load it with "
        f"{loaded}" + (f" onto {source}" if made.form == "adapter" else ""),
        markup=False,
        soft_wrap=True,
    )
    if made.copied:
        out.print(
            f"  copied from {source}: {', '.join(made.copied)}", markup=False, highlight=False, soft_wrap=True
        )
