"""`mergeline merge --many`: every recipe of a folder, from one reading of what they have in common."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.console import amounts_shown, err, out, print_json, shown
from merge_lib.errors import MergeError, SpecError

if TYPE_CHECKING:
    from rich.table import Table

    from merge_lib.streaming.preflight import Overview
    from merge_lib.streaming.run import Asked, MergeOptions, StreamedMerge


def merge_folder(
    folder: Path, target: Path, options: "MergeOptions", *, seed: int | None, is_dry_run: bool, as_json: bool
) -> None:
    """Make what the recipes say, or tell what would be done.

    Raises:
        SpecError: the folder has no recipes, or the output is one file.
        MergeError: all that is wrong with the recipes and what they name, or those merges that cannot be made.
    """
    from flows.recipe import find_recipes
    from merge_lib.streaming.preflight import examine_all
    from merge_lib.streaming.run import Asked, RefusedError, merge_all

    if target.suffix == ".safetensors":
        raise SpecError(f"--out is the file {target}, but several merges go into a folder. Name a folder.")
    asked = [Asked(make, target / name) for name, make in find_recipes(folder, seed).items()]
    if is_dry_run:
        _show_overview(examine_all(asked, options), target, as_json=as_json)
    refusal: MergeError | None = None
    try:
        done = _merge(merge_all, asked, options, examine_all(asked, options).read_bytes)
    except RefusedError as exc:
        done, refusal = exc.done, exc
    _show_done(done, as_json=as_json)
    if refusal is not None:
        raise refusal


def _merge(
    act: Callable[..., Any], asked: Sequence["Asked"], options: "MergeOptions", read_bytes: int
) -> Any:
    with amounts_shown(f"making {len(asked)} merges", max(read_bytes, 1)) as advance:
        return act(asked, replace(options, progress=advance), leaves_finished=True)


def _show_overview(overview: "Overview", target: Path, *, as_json: bool) -> None:
    """Print what would be done, and end."""
    if as_json:
        print_json(asdict(overview))
        sys.exit(2 if overview.problems else 0)
    for problem in overview.problems:
        err.print(problem, markup=False, highlight=False, soft_wrap=True)
    table = _table("output", "tensors", "passes", "read GB", "write GB", "route")
    for path, one in overview.previews.items():
        sizes = f"{one.read_bytes / 1e9:.2f}", f"{one.write_bytes / 1e9:.2f}"
        table.add_row(Path(path).name, str(one.tensors), str(one.passes), *sizes, one.arithmetic)
    for path in overview.finished:
        table.add_row(Path(path).name, "", "", "", "", "finished; is left as it is")
    out.print(table)
    out.print(f"read      {overview.read_bytes / 1e9:8.2f} GB by all together")
    out.print(f"write     {overview.write_bytes / 1e9:8.2f} GB at {target}", soft_wrap=True)
    out.print(f"free      {overview.free_bytes / 1e9:8.2f} GB on that disk")
    out.print(f"memory    {overview.memory_bytes / 1e9:8.2f} GB at the peak, about")
    out.print(f"time      {overview.estimated_s:8.1f} s, a rough guess from the bytes")
    out.print("Nothing was written." if not overview.problems else "Nothing was written; mend these first.")
    sys.exit(2 if overview.problems else 0)


def _show_done(done: Sequence["StreamedMerge"], *, as_json: bool) -> None:
    if as_json:
        print_json([{**asdict(one), "path": str(one.path)} for one in done])
        return
    table = _table("output", "GB", "tensors", "digest", "arithmetic", "")
    for one in done:
        told = f"{one.continued} tensors continued" if one.continued else ""
        told = "was finished; left as it is" if one.was_finished else told
        sizes = f"{one.size_bytes / 1e9:.2f}", str(one.tensors)
        table.add_row(shown(one.path), *sizes, one.digest, one.arithmetic, told)
    out.print(table)
    elapsed_s = max((one.elapsed_s for one in done), default=0.0)
    made = sum(not one.was_finished for one in done)
    out.print(f"{made} merges in {elapsed_s:.2f} s, {len(done) - made} were finished before")


def _table(*names: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    return table
