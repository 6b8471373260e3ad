"""`mergeline forecast`: what each task is expected to lose by a merge, before anything is evaluated."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.console import amounts_shown, out, print_json, say, shown
from merge_lib.errors import SpecError

if TYPE_CHECKING:
    from merge_lib.forecast.measuring import Candidate
    from merge_lib.forecast.predicting import Forecast


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("forecast", help="Say before merging how much each task is expected to lose, by method.")(
        forecast
    )


def forecast(  # noqa: PLR0913, PLR0917 -- one for each option of the command
    recipes: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RECIPE...", help="Recipes on the same experts, ours or mergekit's."),
    ] = None,
    methods: Annotated[
        str,
        typer.Option(
            metavar="NAMES", help="Other methods to compare: ties,tsv; `all` that need no data; or `none`."
        ),
    ] = "all",
    inputs: Annotated[
        Path | None,
        typer.Option(metavar="STUDY", help="A study's YAML file, whose workload shows unlabelled inputs."),
    ] = None,
    examples: Annotated[int, typer.Option(min=1, help="With --inputs: how many of each task.")] = 64,
    tasks: Annotated[
        str | None, typer.Option(metavar="NAMES", help="The task of each expert, in order: a,b,c.")
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="What the experts come from, if no recipe says so.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of mergekit's random methods.")] = None,
    is_rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Run the studies of studies/forecast and learn the model anew.")
    ] = False,
    model: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Another model than the package's.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Predict, or make what predicts."""
    if is_rebuild:
        _rebuild(recipes or [], model)
        return
    names = () if methods == "none" else tuple(name.strip() for name in methods.split(","))
    with ExitStack() as stack:
        from flows.forecasting.recipes import candidates_of

        candidates = candidates_of(stack, recipes or (), methods=names, base=base, seed=seed)
        found = _predicted(candidates, inputs, examples, tasks, model)
    _show(found, as_json=as_json)


def _predicted(
    candidates: "list[Candidate]", inputs: Path | None, examples: int, tasks: str | None, model: Path | None
) -> "Forecast":
    from merge_lib.forecast.answers import Asked
    from merge_lib.forecast.model import ForecastModel
    from merge_lib.forecast.predicting import forecast as predict

    named = [] if tasks is None else [name.strip() for name in tasks.split(",")]
    keywords: dict[str, Any] = {"asked": Asked(examples=examples)}
    if inputs is not None:
        from flows.forecasting.inputs import open_probe

        keywords["probe"], named = open_probe(inputs, named, len(candidates[0].spec.experts))
    with amounts_shown("looking at the weights", _bytes_of(candidates[0])) as advance:
        return predict(candidates, tasks=named, model=ForecastModel.load(model), progress=advance, **keywords)


def _bytes_of(candidate: "Candidate") -> int:
    """Of the checkpoints that are read, for the progress bar."""
    places = [path for path in (candidate.spec.base, *candidate.spec.experts) if path is not None]
    files = [
        file for place in places for file in (place.glob("*.safetensors") if place.is_dir() else [place])
    ]
    return max(sum(file.stat().st_size for file in files if file.is_file()), 1)


def _show(found: "Forecast", *, as_json: bool) -> None:
    from flows.forecasting.showing import notes, table_of, told

    if as_json:
        print_json(told(found))
        return
    out.print(table_of(found))
    for note in notes(found):
        out.print(note, markup=False, highlight=False, soft_wrap=True)


def _rebuild(studies: list[Path], model: Path | None) -> None:
    from importlib.resources import files

    from flows.environment import prepare
    from tasks.project import Project

    if model is None and studies:
        raise SpecError(
            "--rebuild with studies of your own makes another model than the package's. Give its file by --model."
        )
    project = Project.find()
    prepare(project)
    from flows.forecasting.rebuild import rebuild
    from tasks import progress, slots

    progress.allow_work()
    slots.configure(1, 1)
    target = Path(str(files("merge_lib.forecast").joinpath("model.json"))) if model is None else model
    done = rebuild(project, target, say=say, studies=studies)
    for kind in ("weights", "inputs"):
        scores = done.model.of(kind).scores["model"]  # type: ignore[arg-type]
        say(
            f"{kind}: rank correlation {scores['rank_correlation']:.2f}, within a study {scores['within']:.2f}, "
            f"coverage {100 * scores['coverage']:.0f} %"
        )
    say(f"{shown(done.path)}" + (f", {shown(done.figures)}" if done.figures else ""))
