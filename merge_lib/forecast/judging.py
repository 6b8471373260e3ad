"""How good a forecast is on studies that it has not seen, beside the forecasts that need no learning."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from merge_lib.errors import MetricInputError
from merge_lib.forecast.table import Table

Values = Float[np.ndarray, " rows"]
Fitted = Callable[
    [Table], tuple[Values, Values, Values]
]  # a table to predictions and both ends of the interval
Fit = Callable[[Table], Fitted]
NUMBERS = ("rank_correlation", "within", "ranking", "error", "coverage", "width")
_FEWEST = 4  # merges that are put in order


@dataclass(frozen=True)
class Scores:
    """What held-out predictions are worth.

    Attributes:
        rank_correlation: Spearman's, over all rows of all studies together; 0 where all predictions are equal.
        within: the mean over studies of Spearman's correlation over the rows of the study.
        ranking: of merges of the same experts, by their loss, mean over tasks: Spearman's correlation, mean over
            sets of experts and then over studies.
        error: mean absolute error, in points.
        coverage: share of rows whose loss lies in its interval.
        width: mean length of the intervals, in points.
        by_study: for each study its rows, and the same.
    """

    rank_correlation: float
    within: float
    ranking: float
    error: float
    coverage: float
    width: float
    by_study: dict[str, dict[str, float]]

    def to_dict(self) -> dict[str, float]:
        """The numbers of all studies together, rounded to four digits."""
        return {name: round(getattr(self, name), 4) for name in NUMBERS}


def rank_correlation(first: Values, second: Values) -> float:
    """Spearman's ρ: Pearson's correlation of the ranks, equal values sharing their mean rank; 0 if one is constant.

    Raises:
        MetricInputError: the lengths differ, or there are less than two values.
    """
    if len(first) != len(second) or len(first) < 2:
        raise MetricInputError(
            f"A rank correlation needs two values or more of each; got {len(first)} and {len(second)}. "
            "Give both of the same rows."
        )
    centred = [one - one.mean() for one in (ranked(first), ranked(second))]
    lengths = np.prod([np.sqrt((one**2).sum()) for one in centred])
    return float((centred[0] * centred[1]).sum() / lengths) if lengths else 0.0


def ranked(values: Values) -> Values:
    """Ranks from 0; equal values have the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return (ends - (counts + 1) / 2)[places]


def judge(table: Table, fit: Fit) -> Scores:
    """Leave one study out: fit on all others, predict it, for each study in turn, some at a time.

    Args:
        table: rows of two studies or more.
        fit: learns from a table; what it gives is asked for the rows of the study left out.
    """
    predicted = np.zeros((3, len(table.losses)))

    def leave_out(study: str) -> None:
        held_out = table.studies == study
        predicted[:, held_out] = fit(table.only(~held_out))(table.only(held_out))

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # trees are grown without the interpreter's lock
        list(pool.map(leave_out, np.unique(table.studies)))
    return score(table, *predicted)


def score(table: Table, predicted: Values, low: Values, high: Values) -> Scores:
    """The scores of predictions that were made for all rows."""
    covered = (table.losses >= low) & (table.losses <= high)
    errors = np.abs(table.losses - predicted)
    by_study = {
        str(study): {
            "rows": float(own.sum()),
            "rank correlation": rank_correlation(predicted[own], table.losses[own]),
            "error": float(errors[own].mean()),
            "coverage": float(covered[own].mean()),
            **_known("ranking", ranking(table.only(own), predicted[own])),
        }
        for study in np.unique(table.studies)
        for own in (table.studies == study,)
    }
    return Scores(
        rank_correlation(predicted, table.losses),
        _mean(one["rank correlation"] for one in by_study.values()),
        _mean(one["ranking"] for one in by_study.values() if "ranking" in one),
        float(errors.mean()),
        float(covered.mean()),
        float((high - low).mean()),
        by_study,
    )


def ranking(table: Table, predicted: Values) -> float | None:
    """Whether merges of the same experts are put in the right order; None where no set of experts has four merges."""
    found = []
    for group in np.unique(table.groups):
        own = table.groups == group
        merges, places = np.unique(table.merges[own], return_inverse=True)
        if len(merges) >= _FEWEST:
            counts = np.bincount(places)
            means = [np.bincount(places, one[own]) / counts for one in (predicted, table.losses)]
            found.append(rank_correlation(*means))
    return float(np.mean(found)) if found else None


def _known(name: str, value: float | None) -> dict[str, float]:
    return {} if value is None else {name: value}


def _mean(values: Iterator[float]) -> float:
    """0 of none."""
    known = list(values)
    return sum(known) / len(known) if known else 0.0


def always_the_mean(table: Table) -> Fitted:
    """The mean loss of all rows, with the quantiles of the losses for an interval."""
    low, high = np.quantile(table.losses, (0.1, 0.9))
    mean = table.losses.mean()
    return lambda rows: tuple(np.full(len(rows.losses), value) for value in (mean, low, high))  # type: ignore[return-value]


def line_through(name: str) -> Fit:
    """A straight line through one feature, with the quantiles of its residuals for an interval."""

    def fit(table: Table) -> Fitted:
        values = table.columns[name] - table.columns[name].mean()
        spread = float((values**2).mean())
        slope = float((values * table.losses).mean()) / spread if spread > 0 else 0.0
        offset = float(table.losses.mean() - slope * table.columns[name].mean())
        low, high = np.quantile(table.losses - slope * table.columns[name] - offset, (0.1, 0.9))

        def predict(rows: Table) -> tuple[Values, Values, Values]:
            values = slope * rows.columns[name] + offset
            return values, values + low, values + high

        return predict

    return fit


BASELINES: dict[str, Fit] = {
    "always the mean": always_the_mean,
    "cosine between experts only": line_through("cosine (model)"),
    "cosine of merge and expert only": line_through("merge cosine (model)"),
}
WITH_INPUTS: dict[str, Fit] = {"agreement of merge and expert only": line_through("agreement")}
