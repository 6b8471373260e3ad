"""`mergeline plot`: losses along paths and over planes, and conflicts between experts, as pictures."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.console import out, print_json, shown
from merge_lib.errors import SpecError

if TYPE_CHECKING:
    from rich.table import Table

    from flows.landscapes import Choice, Scene
    from merge_lib.report.layout import Figure
    from merge_lib.report.layout import Table as ReportTable

plot = typer.Typer(
    help="Draw what lies between base, experts and merges, of a run or of a merge recipe.",
    no_args_is_help=True,
)
Source = Annotated[
    str, typer.Argument(metavar="RUN|RECIPE.yaml", help="A run (`latest` is the newest), or a merge recipe.")
]
Regime = Annotated[str | None, typer.Option("--regime", help="Of a run; the first by default.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Of a run; the first by default.")]
Tasks = Annotated[
    list[str] | None,
    typer.Option("--task", help="Experts of these tasks, measured on them; may be repeated."),
]
Labels = Annotated[
    list[str] | None, typer.Option("--label", help="Only merges of these methods; may be repeated.")
]
Study = Annotated[
    Path | None,
    typer.Option("--study", metavar="FILE", help="Of a recipe: whose workload and tasks are measured."),
]
Examples = Annotated[int, typer.Option(min=1, help="Of each task's test split, at most.")]
Target = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="The picture: .svg or .png. Default: NAME-KIND.svg here."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print all values as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(plot, name="plot")


@plot.command("path")
def path(  # noqa: PLR0913, PLR0917 -- one for each option of the command
    source: Source = "latest",
    regime: Regime = None,
    seed: Seed = None,
    tasks: Tasks = None,
    through: Annotated[
        list[str] | None,
        typer.Option(help="A checkpoint on the way: `base`, a task, a method's label; may be repeated."),
    ] = None,
    points: Annotated[int, typer.Option(min=2, help="Of each leg, both ends among them.")] = 21,
    examples: Examples = 256,
    study: Study = None,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Loss and accuracy along straight lines from checkpoint to checkpoint, with the barrier of each leg."""
    _check_target(target)
    from merge_lib.report.landscape import barrier_table, path_figure

    with _scene(source, study, _choice(regime, seed, tasks), needs_study=True) as scene:
        found = scene.path(tuple(through or ()), points=points, examples=examples)
    named = {scene.regime: [found]}
    if as_json:
        print_json(_plain({**asdict(found), "barriers": found.barriers()}))
    else:
        _show(barrier_table(named))
    _draw(scene, "path", target, lambda: path_figure(named, has_accuracies=True), is_told=not as_json)


@plot.command("surface")
def surface(  # noqa: PLR0913, PLR0917 -- one for each option of the command
    source: Source = "latest",
    regime: Regime = None,
    seed: Seed = None,
    tasks: Tasks = None,
    labels: Labels = None,
    size: Annotated[int, typer.Option(min=2, help="Points along each side.")] = 21,
    examples: Examples = 256,
    study: Study = None,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Loss and accuracy over the plane through the base and two experts, with the merges marked.

    Stopped and asked again, it goes on after the last finished row.
    """
    _check_target(target)
    from merge_lib.report.landscape import mark_table, surface_figure

    choice = _choice(regime, seed, tasks, labels)
    with _scene(source, study, choice, needs_study=True, pair=True) as scene:
        found = scene.surface(size=size, examples=examples)
    named = {scene.regime: found}
    if as_json:
        print_json(_plain(asdict(found)))
    else:
        _show(mark_table(named))
        if missing := scene.missing():
            out.print(f"Not marked, as their weights were not kept: {', '.join(missing)}.", markup=False)
    _draw(scene, "surface", target, lambda: surface_figure(named, has_tasks=True), is_told=not as_json)


@plot.command("conflicts")
def conflicts(
    source: Source = "latest",
    regime: Regime = None,
    seed: Seed = None,
    tasks: Tasks = None,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Cosine, sign conflict and subspace overlap of each pair of experts, layer by layer; from weights alone."""
    _check_target(target)
    from merge_lib.report.landscape import conflict_figure

    with _scene(source, None, _choice(regime, seed, tasks)) as scene:
        found = scene.conflicts()
    if as_json:
        print_json(_plain(asdict(found)))
    else:
        out.print(_means(asdict(found)["blocks"]))
    named = {scene.regime: [found]}
    _draw(scene, "conflicts", target, lambda: conflict_figure(named), is_told=not as_json)


def _choice(
    regime: str | None, seed: int | None, tasks: list[str] | None, labels: list[str] | None = None
) -> "Choice":
    from flows.landscapes import Choice

    return Choice(regime, seed, tuple(tasks or ()), tuple(labels or ()))


def _check_target(target: Path | None) -> None:
    if target is not None and target.suffix not in (".svg", ".png"):
        raise SpecError(f"--out {target} must end in .svg or .png.")


@contextmanager
def _scene(
    source: str, study: Path | None, choice: "Choice", *, needs_study: bool = False, pair: bool = False
) -> Iterator["Scene"]:
    """The checkpoints that were asked for; a progress bar while they are looked at."""
    from flows.landscapes import scene_of_recipe, scene_of_run

    path = Path(source)
    with TemporaryDirectory() as folder, _progress_shown(source):
        if path.suffix in (".yaml", ".yml"):
            if needs_study and study is None:
                raise SpecError(
                    f"A recipe names no data to measure losses on. Give the study whose tasks the experts of {path} "
                    "were trained on: --study studies/….yaml; `mergeline plot conflicts` needs none."
                )
            yield scene_of_recipe(path, study, choice, Path(folder), pair=pair)
            return
        if study is not None:
            raise SpecError("--study goes with a recipe; a run has its own study. Leave it out.")
        yield _scene_of_run(source, choice, scene_of_run, pair=pair)


def _scene_of_run(source: str, choice: "Choice", make: "Callable[..., Scene]", *, pair: bool) -> "Scene":
    from flows.commands.inspect import finished
    from tasks.journal import results_of
    from tasks.project import Project

    project = Project.find()
    return make(project, results_of(project, finished(project, source)), choice, pair=pair)


@contextmanager
def _progress_shown(title: str) -> Iterator[None]:
    """A bar for each map that is made, where there is a terminal."""
    import sys

    from flows.console import work_shown
    from tasks.progress import Step, listen

    if not sys.stderr.isatty():
        yield
        return
    with work_shown(title, 1.0) as (bars, bar):

        def listener(step: Step) -> None:
            bars.update(bar, completed=step.share_done, description=f"{step.kind} of {title}")

        stop = listen(listener)
        try:
            yield
        finally:
            stop()


def _draw(
    scene: "Scene", kind: str, target: Path | None, make: "Callable[[], Figure]", *, is_told: bool
) -> None:
    """The picture, if one was asked for, or nothing else was."""
    from merge_lib.report.raster import write_png
    from merge_lib.report.render import write_figure

    if target is None and not is_told:
        return
    file = target or Path(f"{scene.title.replace(' · ', '-').replace(' ', '')}-{kind}.svg")
    drawn = write_figure(make(), file) if file.suffix == ".svg" else write_png(make(), file)
    if is_told:
        out.print(f"Picture:  {shown(drawn)}", markup=False, soft_wrap=True)


def _show(found: "ReportTable") -> None:
    """A table of the report in the terminal, without the column that tells regimes apart: there is one."""
    kept = [place for place, column in enumerate(found.columns) if column.title != "Experts"]
    titles = [found.columns[place].title for place in kept]
    table = _table(found.caption, titles, [found.columns[place].is_numeric for place in kept])
    for row in found.rows:
        table.add_row(*(row[place].text for place in kept))
    out.print(table)
    for note in found.notes:
        out.print(note, markup=False)


def _means(blocks: dict[str, dict[str, list[float | None]]]) -> "Table":
    """The mean over the pairs of every measure, by block."""
    measures = list(next(iter(blocks.values())))
    table = _table(
        "Mean over the pairs of experts, %", ["block", *measures], [False, *[True] * len(measures)]
    )
    for block, found in blocks.items():
        known = [[value for value in found[name] if value is not None] for name in measures]
        table.add_row(block, *("–" if not some else f"{100 * sum(some) / len(some):.1f}" for some in known))
    return table


def _table(title: str, headings: Sequence[str], are_numeric: Sequence[bool]) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    for heading, is_numeric in zip(headings, are_numeric, strict=True):
        table.add_column(heading, justify="right" if is_numeric else "left", overflow="fold")
    return table


def _plain(value: Any) -> Any:
    """The same for JSON, which has no NaN and no infinity: these are null."""
    import math

    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
