"""`mergeline convert`: pickled checkpoints to safetensors."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import AsJson
from flows.console import out as console
from flows.console import print_json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("convert", help="Write a .bin, .pt or .pth checkpoint as safetensors; runs no pickled code.")(
        convert
    )


def convert(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="A .bin, .pt or .pth file, or a model folder.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .safetensors file or the folder to make.")],
    key: Annotated[str | None, typer.Option("--key", help="Where in the file the state dict lies.")] = None,
    as_json: AsJson = False,
) -> None:
    """Convert, and say what was written."""
    from merge_lib.checkpoints.convert import convert as write_safetensors

    made = write_safetensors(source, out, key=key)
    if as_json:
        files = [
            {"path": str(file.path), "digest": file.digest, "size_bytes": file.size_bytes}
            for file in made.files
        ]
        print_json({"path": str(made.path), "files": files, "tied": made.tied, "copied": made.copied})
        return
    for file in made.files:
        console.print(f"{file.path}: {file.size_bytes / 1e6:.1f} MB, digest {file.digest}", soft_wrap=True)
    for name, kept in sorted(made.tied.items()):
        console.print(
            f"  {name} shares its tensor with {kept} and is stored once", markup=False, soft_wrap=True
        )
    if made.copied:
        console.print(f"  copied as they are: {', '.join(made.copied)}", markup=False, soft_wrap=True)
