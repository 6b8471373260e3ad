"""`mergeline fold`: experts into the state of a continual method as they arrive, and merges out of it."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.options import AsJson
from flows.console import err, out, print_json, shown
from merge_lib.errors import SpecError

if TYPE_CHECKING:
    from merge_lib.sequence import FoldPreview, FoldReport
    from merge_lib.spec import MergeSpec
    from merge_lib.states.manifest import Recipe

_HELP = """Fold experts into the state of a continual method, one after another, on one machine or several.

The state file holds all that the method keeps, so an expert is read once and may then be deleted. Where it exists, the
sequence goes on with its recipe; what was folded in one by one gives the bytes of merging all at once.

  mergeline fold one.safetensors --method opcm --base base.safetensors --state s.safetensors

  mergeline fold two.safetensors --base base.safetensors --state s.safetensors --out merged.safetensors

Without an expert the merge that a state holds is written, of methods that span the model, such as the model of one
task of ConDU: mergeline fold --base base.safetensors --state s.safetensors --out task0.safetensors --task 0
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("fold", help=_HELP, short_help="Fold experts into the state of a continual method.")(fold)


def fold(  # noqa: PLR0913, PLR0917 -- one for each option of the command
    state: Annotated[
        Path,
        typer.Option(
            "--state", help="The state file; begun where there is none, else replaced.", show_default=False
        ),
    ],
    experts: Annotated[
        list[Path] | None,
        typer.Argument(metavar="EXPERT...", help="The new experts, in order; none: only --out is written."),
    ] = None,
    method: Annotated[str | None, typer.Option(help="A continual method. Default: the state's.")] = None,
    base: Annotated[Path | None, typer.Option(help="What the experts were fine-tuned from.")] = None,
    target: Annotated[
        Path | None,
        typer.Option("--out", help="Where the merge goes; ends in .safetensors.", show_default=False),
    ] = None,
    into: Annotated[
        Path | None, typer.Option(help="Where the new state goes, the old one staying.", show_default=False)
    ] = None,
    task: Annotated[
        int | None, typer.Option(min=-1, help="Whose model --out is, from 0, of methods that decode.")
    ] = None,
    params: Annotated[
        list[str] | None, typer.Option("--param", metavar="KEY=VALUE", help="Of the method. Repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Names or patterns of tensors to leave as in the base. Repeatable."),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="Of floating tensors in the merge.")] = None,
    again: Annotated[bool, typer.Option("--again", help="The last expert may come once more.")] = False,
    is_dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all headers, say what would happen.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fold, or read a merge."""
    from merge_lib.sequence import fold_experts, preview_fold

    given = {"method": method, "params": _parse(params or (), task), "exclude": exclude, "dtype": dtype}
    _check_target(target)
    if not experts:
        _read(state, base, target, given, as_json=as_json, is_dry_run=is_dry_run)
        return
    earlier = state if state.exists() else None
    spec = _spec(earlier, base, experts, given)
    if is_dry_run:
        _show_preview(preview_fold(spec, into or state, earlier=earlier, out=target), as_json=as_json)
        return
    with err.status(f"folding by {spec.method}"):
        done = fold_experts(spec, into or state, earlier=earlier, out=target, again=again)
    _show(done, as_json=as_json)


def _parse(assignments: "list[str] | tuple[str, ...]", task: int | None) -> dict[str, Any]:
    """Parameters from `key=value`, the values being YAML."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    params: dict[str, Any] = {} if task is None else {"task": task}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key or key in params:
            raise SpecError(
                f"--param got '{assignment}', expected key=value, each key once, such as density=0.2."
            )
        try:
            params[key] = YAML(typ="safe").load(text)
        except YAMLError as broken:
            raise SpecError(f"--param {key}: '{text}' is not a YAML value. {broken}") from broken
    return params


def _check_target(target: Path | None) -> None:
    if target is not None and target.suffix != ".safetensors":
        raise SpecError(
            f"--out is {target}, but a fold writes one file. Give a path that ends in .safetensors."
        )


def _spec(earlier: Path | None, base: Path | None, experts: list[Path], given: dict[str, Any]) -> "MergeSpec":
    """The recipe as given; what is not given is as in the earlier state."""
    from merge_lib.spec import MergeSpec
    from merge_lib.states import StateFile

    fields = {name: value for name, value in given.items() if value is not None}
    if earlier is not None:
        with StateFile(earlier) as file:
            fields = _filled_in(file.recipe, fields)
    if "method" not in fields:
        raise SpecError("A new state needs a method. Give --method; `mergeline methods` lists them.")
    return MergeSpec(**{**fields, "base": base, "experts": tuple(experts)})


def _filled_in(recipe: "Recipe", fields: dict[str, Any]) -> dict[str, Any]:
    own = {"method": recipe.method, "seed": recipe.seed, "exclude": recipe.exclude, "dtype": recipe.dtype}
    params = recipe.params if fields.get("method", recipe.method) == recipe.method else {}
    return {**own, **fields, "params": {**params, **fields["params"]}}


def _read(
    state: Path,
    base: Path | None,
    target: Path | None,
    given: dict[str, Any],
    *,
    as_json: bool,
    is_dry_run: bool,
) -> None:
    """Write the merge that a state holds."""
    from merge_lib.sequence import read_merge

    useless = [f"--{name}" for name in ("method", "exclude", "dtype") if given[name] is not None]
    if base is None or target is None or useless or is_dry_run:
        raise SpecError(
            "Without an expert, `mergeline fold` writes the merge that a state holds: it needs --base and --out, takes "
            "--task or --param, and all else from the state. Give the experts to fold in, or only those options."
        )
    written = read_merge(state, base, target, **given["params"])
    if as_json:
        print_json({**asdict(written), "path": str(written.path)})
        return
    out.print(
        f"{shown(written.path)}: {written.size_bytes / 1e6:.1f} MB, digest {written.digest}", soft_wrap=True
    )


def _show_preview(preview: "FoldPreview", *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(preview))
        return
    out.print(
        f"Experts to fold in by {preview.method}: {preview.experts}; folded in already: {preview.before}"
    )
    out.print(f"{preview.tensors} tensors, {preview.read_bytes / 1e9:.2f} GB to read. Nothing was written.")


def _show(done: "FoldReport", *, as_json: bool) -> None:
    if as_json:
        merged = done.merged and {**asdict(done.merged), "path": str(done.merged.path)}
        told = {**asdict(done), "path": str(done.path), "merged": merged}
        print_json({**told, "state_bytes_per_expert": done.state_bytes_per_expert})
        return
    count = len(done.experts)
    out.print(
        f"{shown(done.path)}: {done.method} of {count} expert{'s' if count > 1 else ''}, "
        f"{done.state_bytes / 1e6:.1f} MB of state, {done.state_bytes_per_expert / 1e6:.1f} MB an expert",
        soft_wrap=True,
    )
    if done.merged is not None:
        merged = done.merged
        out.print(
            f"{shown(merged.path)}: {merged.size_bytes / 1e6:.1f} MB, digest {merged.digest}", soft_wrap=True
        )
    out.print(f"state digest {done.digest}; {done.elapsed_s:.2f} s", soft_wrap=True)
