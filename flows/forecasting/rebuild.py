"""The forecast's model made anew: small studies run, their merges measured, the model learned, judged and written."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.config import StudyConfig, load_study
from flows.forecasting.collecting import COUNTS, lines_of
from merge_lib.errors import SpecError
from merge_lib.forecast.model import ForecastModel, Kind
from merge_lib.forecast.table import read_lines, to_arrow, write_lines
from merge_lib.forecast.training import SETTINGS, Settings, learn
from tasks.caching import code_digest
from tasks.project import Project

FOLDER = "studies/forecast"
FIGURES = "docs/forecast-figures.md"
_CODE = ("merge_lib.forecast.measuring", "merge_lib.forecast.answers", "merge_lib.forecast.table")
_SHARED = ("order of merges", "mean error", "coverage of 80 %")
_TITLES: dict[Kind, str] = {"weights": "From weights alone", "inputs": "With unlabelled inputs"}


@dataclass(frozen=True)
class Rebuilt:
    """What was made."""

    model: ForecastModel
    path: Path
    figures: Path | None


def rebuild(
    project: Project,
    target: Path,
    *,
    say: Callable[[str], None],
    studies: Sequence[Path] = (),
    settings: Mapping[Kind, Settings] = SETTINGS,
) -> Rebuilt:
    """Run what is left of the studies, then learn from all of them.

    Finished steps of a study are found among the finished work, and the rows of a finished study in
    `.mergeline/forecast`, so that the same command goes on where it was stopped.

    Args:
        project: whose studies and finished work.
        target: the model's file.
        say: told each study when it is done.
        studies: YAML files; none: all of `studies/forecast`.
        settings: how the trees are grown.

    Raises:
        SpecError: there are less than three studies, or one is wrong.
    """
    paths = list(studies) or sorted((project.root / FOLDER).glob("*.yaml"))
    if len(paths) < 3:
        raise SpecError(
            f"A forecast is judged by leaving studies out, which takes three or more; got {len(paths)} in "
            f"{project.root / FOLDER}. Add studies there."
        )
    configs = [load_study(path) for path in paths]
    tables = [_table_of(project, config, say) for config in configs]
    table = read_lines(tables)
    say(f"learning from {len(table.losses)} rows, and judging; minutes")
    model = learn(table, settings)
    model.save(target)
    figures = project.root / FIGURES if (project.root / FIGURES).parent.is_dir() else None
    if figures is not None:
        figures.write_text("\n".join(figures_of(model)) + "\n", encoding="utf-8")
    return Rebuilt(model, target, figures)


def _table_of(project: Project, config: StudyConfig, say: Callable[[str], None]) -> Path:
    """The rows of a study, measured unless they are there."""
    path = project.state / "forecast" / f"{config.study}-{_key(config)}.parquet"
    if path.is_file():
        say(f"{config.study}: measured before")
        return path
    table = to_arrow(lines_of(project, config))
    write_lines(table, path)
    say(f"{config.study}: {len(table)} rows")
    return path


def _key(config: StudyConfig) -> str:
    """Changes with the study, and with what measures it."""
    content = config.model_dump(mode="json", exclude={"resources", "description"})
    told = json.dumps([content, COUNTS, code_digest(*_CODE)], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def figures_of(model: ForecastModel) -> Iterator[str]:
    """The judged scores as a page of tables."""
    table = model.table
    yield "# How good the forecast is"
    yield ""
    yield (
        f"Written by `mergeline forecast --rebuild`: {table['rows']} rows of {table['merges']} merges from "
        f"{len(table['studies'])} studies, each left out in turn. Table {table['digest'][:19]}…"
    )
    for kind, title in _TITLES.items():
        scores = model.of(kind).scores
        yield from ("", f"## {title}", "", "Error and width are in points of accuracy.", "")
        yield _heading("predictor", "rank correlation", "within a study", *_SHARED, "width")
        yield from (
            _line(name, values, ("rank_correlation", "within", "ranking", "error", "coverage", "width"))
            for name, values in scores.items()
            if not name.startswith("study ")
        )
        yield ""
        yield _heading("study left out", "rows", "rank correlation", *_SHARED)
        yield from (
            _line(
                name.removeprefix("study "),
                values,
                ("rows", "rank correlation", "ranking", "error", "coverage"),
            )
            for name, values in scores.items()
            if name.startswith("study ")
        )


def _heading(*names: str) -> str:
    return f"| {' | '.join(names)} |\n|{'---|' * len(names)}"


def _line(name: str, values: Mapping[str, Any], keys: Sequence[str]) -> str:
    return f"| {name} | {' | '.join(_number(key, values.get(key)) for key in keys)} |"


def _number(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    if key == "rows":
        return f"{value:.0f}"
    if key == "coverage":
        return f"{100 * value:.0f} %"
    return f"{value:.1f}" if key in ("error", "width") else f"{value:.2f}"
