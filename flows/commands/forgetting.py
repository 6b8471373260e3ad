"""`mergeline forgetting`: what the merges of a run, or of a recipe, forgot, as tables, a page and parquet."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.options import AsJson
from flows.console import amounts_shown, out, print_json, shown
from merge_lib.errors import SpecError

if TYPE_CHECKING:
    from rich.table import Table as Shown

    from flows.forgettings import Told
    from flows.summary import Column
    from merge_lib.report.layout import Report, Table

PAGE = "forgetting.html"
WIDEST = 60  # characters of a column; longer texts are broken


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "forgetting", help="Say what a run's merges, or a merge recipe, forgot: directions and examples."
    )(forgetting)


def forgetting(  # noqa: PLR0913, PLR0917 -- one for each option of the command
    source: Annotated[
        str,
        typer.Argument(metavar="RUN|RECIPE.yaml", help="A run (`latest` is the newest), or a merge recipe."),
    ] = "latest",
    label: Annotated[str | None, typer.Option("--label", help="Only the method of this label.")] = None,
    regime: Annotated[str | None, typer.Option("--regime", help="Only experts trained so.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Only this seed.")] = None,
    study: Annotated[
        Path | None,
        typer.Option(
            "--study", help="Of a recipe: whose tasks its experts have learned, in order, for examples."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Of that study. Repeatable.")
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="How many of the tensors that lost most are listed.")] = 10,
    as_json: AsJson = False,
    folder: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Where the page and the tables go."),
    ] = None,
) -> None:
    """Print the tables; write them as parquet, and as a page with the examples."""
    path = Path(source)
    is_recipe = path.suffix in (".yaml", ".yml")
    _check(is_recipe=is_recipe, of_run=(label, regime, seed), of_recipe=(study, overrides))
    if is_recipe:
        told, name, default = (
            _of_recipe(path, study, overrides or ()),
            path.name,
            Path(f"{path.stem}-forgetting"),
        )
    else:
        told, name, default = _of_run(source, label, regime, seed)
    from flows.forgettings import report_of

    facts = [("Merges", ", ".join(one.merged.name for one in told)), ("Of", name)]
    report = report_of(f"Forgetting: {name}", facts, told, top)
    if as_json:
        print_json([_plain(one) for one in told])
    else:
        _show(report)
    written = _write(report, told, folder or default)
    for path in written if not as_json else ():
        out.print(f"Written: {shown(path)}", markup=False, soft_wrap=True)


def _check(*, is_recipe: bool, of_run: Sequence[object], of_recipe: Sequence[object]) -> None:
    if is_recipe and any(option is not None for option in of_run):
        raise SpecError(
            "--label, --regime and --seed choose among a run's merges; a recipe is one merge. Leave them out."
        )
    if not is_recipe and any(option is not None for option in of_recipe):
        raise SpecError(
            "--study and --set say whose tasks a recipe's experts have learned; a run knows. Leave them out."
        )
    if of_recipe[0] is None and of_recipe[1] is not None:
        raise SpecError("--set changes settings of the study that --study names. Give that, too.")


def _of_run(
    source: str, label: str | None, regime: str | None, seed: int | None
) -> "tuple[Sequence[Told], str, Path]":
    """What its merges forgot, its name, and where the files usually go."""
    from flows.commands.inspect import finished
    from tasks.project import Project
    from tasks.runs import load_run

    project = Project.find()
    run = load_run(project, finished(project, source))
    from flows.forgettings import last_merges, told_of_run

    setting, merges = last_merges(project, run, label, regime, seed)
    with amounts_shown("comparing", len(merges)) as advance:
        told = told_of_run(setting, merges, advance)
    words = "-".join(str(one) for one in (label, regime, seed) if one is not None)
    return told, run.run_id, project.runs / run.run_id / "forgetting" / (words or "all")


def _of_recipe(path: Path, study: Path | None, overrides: Sequence[str]) -> "Sequence[Told]":
    from flows.audits import load_auditable
    from flows.commands.audit import bytes_of
    from flows.commands.observe import prepared_setting
    from flows.config import load_study
    from flows.forgettings import told_of_recipe

    spec = load_auditable(path)
    setting = None if study is None else prepared_setting(load_study(study, overrides))
    with amounts_shown("comparing", bytes_of(spec)) as advance:
        return told_of_recipe(spec, setting, advance)


def _show(report: "Report") -> None:
    from flows.summary import columns_within
    from merge_lib.report.layout import Table

    tables = [block for section in report.sections for block in section.blocks if isinstance(block, Table)]
    is_cut = False
    for table in tables:
        every = _columns(table)
        columns = columns_within(out.width, every)
        is_cut |= len(columns) < len(every)
        out.print(_shown(table, columns))
    notes = dict.fromkeys(note for table in tables for note in table.notes)
    for note in notes:
        out.print(note, markup=False)
    if is_cut:
        out.print("The page has more columns than fit here.")


def _columns(table: "Table") -> list["Column"]:
    """The columns of a table with the headings of their groups above them."""
    from flows.summary import Column

    found = []
    for place, column in enumerate(table.columns):
        texts = [row[place].text for row in table.rows]
        heading = [*([column.group] if column.group else []), column.title]
        width = min(max(map(len, (*heading, *texts))), WIDEST)
        found.append(Column("\n".join(heading), texts, width, column.is_numeric))
    return found


def _shown(table: "Table", columns: Sequence["Column"]) -> "Shown":
    from rich import box
    from rich.table import Table as Shown

    found = Shown(
        title=table.caption, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    for column in columns:
        found.add_column(column.heading, justify="right" if column.is_number else "left", width=column.width)
    for row in zip(*(column.texts for column in columns), strict=True):
        found.add_row(*row)
    return found


def _plain(one: "Told") -> dict:
    merged = one.merged
    seeds = [
        {"seed": seed, "tasks": summary.tasks, "blocks": summary.blocks}
        for seed, summary in zip(one.seeds, merged.summaries, strict=True)
    ]
    return {"label": merged.label, "method": merged.method, "regime": merged.regime, "seeds": seeds}


def _write(report: "Report", told: "Sequence[Told]", folder: Path) -> list[Path]:
    from flows.forgettings import whole_tables
    from merge_lib.diagnostics import write_table
    from merge_lib.report.render import write_html

    folder.mkdir(parents=True, exist_ok=True)
    tables = [write_table(table, folder / name) for name, table in whole_tables(told).items()]
    return [write_html(report, folder / PAGE), *tables]
