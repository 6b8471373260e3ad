"""`mergeline audit`: what the merges of a run, or of a recipe, removed, and why."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.options import AsJson
from flows.console import amounts_shown, out, print_json, shown
from merge_lib.errors import SpecError

if TYPE_CHECKING:
    from rich.table import Table

    from flows.audits import Selected
    from merge_lib.spec import MergeSpec

_MEASURES = {
    "outvoted energy": "outvoted",
    "opposed energy": "opposed",
    "merged density": "density",
}
_LEGEND = (
    "Percent. Kept: ⟨Δ, τ⟩ / ‖τ‖², how far the merge goes along the expert's task vector. Outvoted: its energy where "
    "the sum over experts has the other sign; opposed: where the merge has. Density: entries that the merge changed."
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("audit", help="Say what a run's merges, or a merge recipe, removed of each expert, and why.")(
        audit
    )


def audit(
    source: Annotated[
        str,
        typer.Argument(metavar="RUN|RECIPE.yaml", help="A run (`latest` is the newest), or a merge recipe."),
    ] = "latest",
    label: Annotated[str | None, typer.Option("--label", help="Only the method of this label.")] = None,
    regime: Annotated[str | None, typer.Option("--regime", help="Only experts trained so.")] = None,
    tensor: Annotated[
        str | None, typer.Option("--tensor", metavar="PATTERN", help="Only tensors such as 'blocks.0.*'.")
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="How many of the tensors that lost most are listed.")] = 10,
    as_json: AsJson = False,
    target: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the whole table: .parquet or .csv.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw block × task: .svg or .png.")
    ] = None,
) -> None:
    """Print by task, by block, and the tensors that lost most with what the method did to them."""
    _check_files(target, plot)
    from flows.audits import told

    selected = _selected(source, label, regime)
    found = told(selected, tensor, top)
    if as_json:
        print_json(found)
    else:
        _show(found)
    _write(selected, found, target, plot, is_told=not as_json)


def _selected(source: str, label: str | None, regime: str | None) -> "list[Selected]":
    from flows.audits import audit_of_recipe, audits_of_run, load_auditable
    from flows.commands.inspect import finished
    from tasks.journal import results_of
    from tasks.project import Project

    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        project = Project.find()
        return audits_of_run(project, results_of(project, finished(project, source)), label, regime)
    if label is not None or regime is not None:
        raise SpecError(
            "--label and --regime choose among a run's merges; a recipe is one merge. Leave them out."
        )
    spec = load_auditable(path)
    with amounts_shown("auditing", bytes_of(spec)) as advance:
        return audit_of_recipe(spec, advance)


def bytes_of(spec: "MergeSpec") -> int:
    """Of the checkpoints that will be read, for the progress bar."""
    places = [path for path in (spec.base, *spec.experts) if path is not None]
    files = [
        file for place in places for file in (place.glob("*.safetensors") if place.is_dir() else [place])
    ]
    return max(sum(file.stat().st_size for file in files if file.is_file()), 1)


def _check_files(target: Path | None, plot: Path | None) -> None:
    problems = [
        f"{name} {path} must end in {' or '.join(endings)}."
        for name, path, endings in (
            ("--out", target, (".parquet", ".csv")),
            ("--plot", plot, (".svg", ".png")),
        )
        if path is not None and path.suffix not in endings
    ]
    if problems:
        raise SpecError("\n".join(problems))


def _show(found: Sequence[Mapping[str, Any]]) -> None:
    out.print(_by_task(found))
    for one in found if len(found) == 1 else ():
        out.print(_by_block(one))
        out.print(_losses(one))
    out.print(_LEGEND, markup=False)
    if len(found) > 1:
        out.print("With --label and --regime: by block, and the tensors that lost most.", markup=False)


def _by_task(found: Sequence[Mapping[str, Any]]) -> "Table":
    tasks = list(dict.fromkeys(task for one in found for task in one["tasks"]))
    table = _table("Energy kept of each expert", ["method", "experts"], [*tasks, "mean", *_MEASURES.values()])
    for one in found:
        kept = [one["tasks"].get(task, {}).get("energy kept") for task in tasks]
        others = [
            _mean([measured.get(measure) for measured in one["tasks"].values()]) for measure in _MEASURES
        ]
        table.add_row(one["label"], one["regime"] or "–", *map(_percent, [*kept, _mean(kept), *others]))
    return table


def _by_block(one: Mapping[str, Any]) -> "Table":
    tasks = list(one["tasks"])
    table = _table("By block", ["block"], [*tasks, "mean", *_MEASURES.values()])
    for block, measured in one["blocks"].items():
        kept = [measured.get(task, {}).get("energy kept") for task in tasks]
        others = [_mean([values.get(measure) for values in measured.values()]) for measure in _MEASURES]
        table.add_row(block, *map(_percent, [*kept, _mean(kept), *others]))
    return table


def _losses(one: Mapping[str, Any]) -> "Table":
    table = _table("Where most of an expert's energy is gone", ["tensor", "task"], ["gone", "kept"])
    table.add_column("the method's notes")
    for loss in one["losses"]:
        why = ", ".join(f"{name} {value:.3g}" for name, value in loss["why"].items()) or "none"
        table.add_row(loss["tensor"], loss["task"], _percent(loss["share"]), _percent(loss["kept"]), why)
    return table


def _table(title: str, words: Sequence[str], numbers: Sequence[str]) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    for heading in words:
        table.add_column(heading, overflow="fold")
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _write(
    selected: "Sequence[Selected]",
    found: Sequence[Mapping[str, Any]],
    target: Path | None,
    plot: Path | None,
    *,
    is_told: bool,
) -> None:
    """The files that were asked for."""
    from flows.audits import whole_table
    from merge_lib.diagnostics import write_table
    from merge_lib.report.audits import block_figure
    from merge_lib.report.bitmap import write_block_maps
    from merge_lib.report.render import write_figure

    written = []
    if target is not None:
        written.append(("Table", write_table(whole_table(selected), target)))
    if plot is not None:
        tasks = list(dict.fromkeys(task for one in found for task in one["tasks"]))
        maps = {named.name: _kept(one["blocks"]) for named, one in zip(selected, found, strict=True)}
        is_drawn = plot.suffix == ".svg"
        drawn = (
            write_figure(block_figure(maps, tasks), plot) if is_drawn else write_block_maps(maps, tasks, plot)
        )
        written.append(("Plot", drawn))
    for what, path in written if is_told else ():
        out.print(f"{what}:  {shown(path)}", markup=False, soft_wrap=True)


def _kept(blocks: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    return {
        block: {task: found["energy kept"] for task, found in tasks.items() if "energy kept" in found}
        for block, tasks in blocks.items()
    }
