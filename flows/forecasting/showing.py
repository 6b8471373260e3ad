"""A forecast as plain values, and as what the command line says of it."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from merge_lib import registry
from merge_lib.errors import MergeError
from merge_lib.forecast.model import Prediction
from merge_lib.forecast.predicting import Expectation, Forecast

if TYPE_CHECKING:
    from rich.table import Table

_TASKS = 6  # that a terminal's table has columns for


def told(forecast: Forecast) -> dict[str, Any]:
    """All of it as JSON values."""
    predictor = forecast.model.of(forecast.kind)
    return {
        "from": forecast.kind,
        "tasks": list(forecast.tasks),
        "methods": [_told_one(rank, one) for rank, one in enumerate(forecast.expectations, 1)],
        "outside": dict(forecast.outside),
        "notes": list(notes(forecast)),
        "model": {"table": dict(forecast.model.table), "scores": dict(predictor.scores.get("model", {}))},
    }


def _told_one(rank: int, one: Expectation) -> dict[str, Any]:
    if not one.tasks:
        return {"rank": None, "label": one.label, "method": one.method, "refusal": one.refusal}
    tasks = {task: asdict(found) for task, found in one.tasks.items()}
    return {"rank": rank, "label": one.label, "method": one.method, "mean": one.mean, "tasks": tasks}


def table_of(forecast: Forecast) -> "Table":
    """Methods from the least expected loss on."""
    from rich import box
    from rich.table import Table

    table = Table(
        title="Expected loss against each task's expert, points of accuracy [80 % interval]",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    shown = forecast.tasks if len(forecast.tasks) <= _TASKS else ()
    table.add_column("", justify="right")
    table.add_column("merge", overflow="fold")
    for heading in ("mean", *(shown or ("worst task",))):
        table.add_column(heading, justify="right")
    for rank, one in enumerate(forecast.expectations, 1):
        if one.tasks:
            cells = [one.tasks[task] for task in shown] or [one.tasks[one.worst]]
            named = "" if shown else f"{one.worst}  "
            table.add_row(
                str(rank), _name(one), _one_digit(one.mean), *(f"{named}{_cell(cell)}" for cell in cells)
            )
    return table


def _name(one: Expectation) -> str:
    return one.label if one.label.startswith(one.method) else f"{one.label} ({one.method})"


def _cell(found: Prediction) -> str:
    mark = "*" if found.outside else ""
    return f"{_one_digit(found.loss)}{mark} [{round(found.low)}, {round(found.high)}]"


def _one_digit(points: float) -> str:
    return f"{round(points, 1) or 0.0:.1f}"  # no minus before zero


def notes(forecast: Forecast) -> Iterator[str]:
    """What must be known to read it."""
    yield from _worth(forecast)
    yield from _range(forecast)
    yield from _closeness([one for one in forecast.expectations if one.tasks])
    if decoding := [one.label for one in forecast.expectations if one.tasks and _needs_task(one)]:
        yield f"{', '.join(decoding)}: a model for each task, whose user must know the task."
    for one in forecast.expectations:
        if not one.tasks:
            yield f"{one.label} cannot merge these experts: {one.refusal}"


def _worth(forecast: Forecast) -> Iterator[str]:
    scores = forecast.model.of(forecast.kind).scores.get("model")
    seen = "weights alone" if forecast.kind == "weights" else "weights and unlabelled inputs"
    if scores:
        yield (
            f"From {seen}. On studies left out of the table its rank correlation with what was measured was "
            f"{scores['rank_correlation']:.2f} ({scores['within']:.2f} within a study), its mean error "
            f"{scores['error']:.1f} points, and {100 * scores['coverage']:.0f} % of losses lay in their interval."
        )


def _range(forecast: Forecast) -> Iterator[str]:
    if not forecast.outside:
        return
    first = [f"{name} in {count}" for name, count in list(forecast.outside.items())[:5]]
    more = f" and {len(forecast.outside) - 5} more" if len(forecast.outside) > 5 else ""
    marked = sum(bool(found.outside) for one in forecast.expectations for found in one.tasks.values())
    yield (
        f"* {marked} of {forecast.rows} predictions are beyond what the model has seen, small vision transformers on "
        f"digits and toys (features outside of the table's range: {', '.join(first)}{more}). There neither the figures "
        "nor the intervals can be relied on; the order may still say something."
    )


def _closeness(made: Sequence[Expectation]) -> Iterator[str]:
    """How many merges the best is not told from."""
    others = made[1:]
    close = [one for one in others if one.mean - made[0].mean < _half_width(made[0])]
    if close:
        yield (
            f"{len(close)} of {len(others)} others are expected to be within the uncertainty of the best: the order "
            "among them is a guess."
        )


def _half_width(one: Expectation) -> float:
    """Of the interval of a task, on average."""
    widths = [(found.high - found.low) / 2 for found in one.tasks.values()]
    return sum(widths) / len(widths)


def _needs_task(one: Expectation) -> bool:
    try:
        return registry.get(one.method).decodes
    except MergeError:  # one of mergekit's, or of the recipe's own name
        return False
