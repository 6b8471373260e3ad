"""`mergeline merge`: checkpoints into one model, from a recipe, at the speed of the disk."""

import os
import re
import sys
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.console import amounts_shown, print_json, say, shown
from merge_lib.errors import SpecError

if TYPE_CHECKING:
    from merge_lib.streaming.preflight import Preview
    from merge_lib.streaming.run import StreamedMerge

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("merge", help="Merge checkpoints into a folder that transformers loads, or into one file.")(
        merge
    )


def merge(  # noqa: PLR0913, PLR0917 -- one for each option of the command
    target: Annotated[
        Path,
        typer.Option("--out", help="A new folder, or a file that ends in .safetensors.", show_default=False),
    ],
    recipe: Annotated[
        Path | None,
        typer.Argument(
            help="A YAML file: method, params, base, experts, seed, exclude, dtype; or mergekit's as it is."
        ),
    ] = None,
    many: Annotated[
        Path | None,
        typer.Option(
            help="A folder of recipes: each becomes a folder in --out, all from one reading.",
            show_default=False,
        ),
    ] = None,
    max_shard_size: Annotated[str, typer.Option(help="Of a folder's files, such as 500MB or 2G.")] = "5GB",
    is_dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Look at the headers, say what would happen.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: the cores that may be used.")] = None,
    memory: Annotated[str | None, typer.Option(help="Bound on the process's memory, such as 512M.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the random methods of a mergekit recipe. Default: 0.")
    ] = None,
    file_hash: Annotated[
        list[str] | None,
        typer.Option(help="Also record sha256 or md5 of whole files; slower than the merge. Repeatable."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Merge; the same command continues a merge that was interrupted."""
    _start_lean()
    from flows.recipe import load_any_recipe
    from merge_lib.files.hashes import check_kinds
    from merge_lib.streaming.preflight import examine_plan
    from merge_lib.streaming.run import MergeOptions, merge_planned

    memory_bytes = None if memory is None else parse_size(memory)
    shard_bytes, hashes = parse_size(max_shard_size), check_kinds(file_hash or ())
    options = MergeOptions(threads, memory_bytes, shard_bytes, file_hashes=hashes, device=device)
    if many is not None and recipe is None:
        from flows.commands.merge_many import merge_folder

        merge_folder(many, target, options, seed=seed, is_dry_run=is_dry_run, as_json=as_json)
        return
    if many is not None or recipe is None:
        raise SpecError(
            "A merge needs a recipe, or --many and a folder of recipes, but not both. Give one of them."
        )
    loaded = load_any_recipe(recipe, seed)
    plan = cache(loaded.plan)  # headers are read once
    preview = examine_plan(plan, target, options)
    if is_dry_run:
        _show_preview(preview, target, as_json=as_json)
        sys.exit(2 if preview.problems else 0)
    with amounts_shown(f"merging by {loaded.method}", max(preview.read_bytes, 1)) as advance:
        done = merge_planned(plan, target, replace(options, progress=advance))
    _show_done(done, as_json=as_json)


def _start_lean() -> None:
    """Tell libraries that are not imported yet to do nothing in advance; a user's own settings stay.

    pydantic would read the metadata of all installed distributions to find plugins; the threads of numpy's linear
    algebra would each keep a core busy for 60 ms, waiting for work that no merge gives them.
    """
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")  # 2^4 cycles, the least that there is


def parse_size(text: str) -> int:
    """Bytes of a size such as 512M, 5GB or 1000.

    Raises:
        SpecError: the text is not a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)(i?)(B?)", text.strip(), re.IGNORECASE)
    size = 0
    if match is not None:
        number, unit, binary, byte = match.groups()
        key = unit.upper() + ("B" if unit and byte and not binary else "")
        size = int(float(number) * _UNITS[key])
    if size <= 0:
        raise SpecError(f"'{text}' is not a size. Give a number with a unit, such as 512M, 5GB or 2GiB.")
    return size


def _show_preview(preview: "Preview", target: Path, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(preview))
        return
    for problem in preview.problems:
        say(problem, is_remark=True)
    if preview.tensors:
        parameters = f"{preview.parameters / 1e6:.1f} M parameters"
        say(f"{preview.tensors} tensors, {preview.merged} of them merged, {parameters}")
        times = "once" if preview.passes == 1 else f"in {preview.passes} passes"
        say(f"read      {preview.read_bytes / 1e9:8.2f} GB, {times}")
        files = f"{preview.shards} file{'s' if preview.shards > 1 else ''}"
        say(f"write     {preview.write_bytes / 1e9:8.2f} GB in {files} at {target}")
        say(f"free      {preview.free_bytes / 1e9:8.2f} GB on that disk")
        say(f"memory    {preview.memory_bytes / 1e9:8.2f} GB at the peak, about")
        say(f"time      {preview.estimated_s:8.1f} s, a rough guess from the bytes")
        say(f"route     {preview.arithmetic}")
    say("Nothing was written." if not preview.problems else "Nothing was written; mend these first.")


def _show_done(done: "StreamedMerge", *, as_json: bool) -> None:
    if as_json:
        print_json({**asdict(done), "path": str(done.path)})
        return
    continued = f", {done.continued} of them from the interrupted run" if done.continued else ""
    say(f"{shown(done.path)}: {done.size_bytes / 1e9:.2f} GB, {done.tensors} tensors{continued}")
    say(f"digest {done.digest}; {done.elapsed_s:.2f} s; arithmetic: {done.arithmetic}")
