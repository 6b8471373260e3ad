"""The accuracy matrix as every metric reads it, and the table in which metrics describe themselves."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from merge_lib.errors import MetricInputError

AccuracyMatrix = Sequence[Sequence[float | None]] | np.ndarray
AccuracyVector = Sequence[float | None] | np.ndarray


@dataclass(frozen=True)
class MetricInfo:
    """What a metric is called, how it is computed and which way is better."""

    name: str  # stable: the key in `summarise` and in MLflow
    title: str
    formula: str  # one line; R[t,k] after stage t on task k, both from 0; T tasks; L = T-1 is the last stage
    higher_is_better: bool
    source: str
    undefined_when: str
    needs: tuple[str, ...]  # of before, experts, joint
    function: Callable[..., float | None]

    @property
    def direction(self) -> str:
        """Which way is better, in a word."""
        return "higher is better" if self.higher_is_better else "lower is better"


_METRICS: dict[str, MetricInfo] = {}


def metric(
    title: str,
    formula: str,
    *,
    source: str,
    undefined_when: str = "an entry it needs was not measured",
    higher_is_better: bool = True,
) -> Callable[[Callable[..., float | None]], Callable[..., float | None]]:
    """Register a function as the metric of its own name; the function itself is left as it is."""

    def register(function: Callable[..., float | None]) -> Callable[..., float | None]:
        name = function.__name__
        assert name not in _METRICS, name
        needs = tuple(inspect.signature(function).parameters)[1:]
        _METRICS[name] = MetricInfo(
            name, title, formula, higher_is_better, source, undefined_when, needs, function
        )
        return function

    return register


def registered() -> dict[str, MetricInfo]:
    """All metrics by name, in the order in which reports list them."""
    return dict(_METRICS)


def as_matrix(accuracy: AccuracyMatrix) -> np.ndarray:
    """A float64 copy [T, T] of an accuracy matrix; None and a row's missing end become NaN.

    Raises:
        MetricInputError: there is no row, a row is longer than the matrix is high, or an entry is infinite.
    """
    rows = [list(row) for row in accuracy]
    size = len(rows)
    longest = max((len(row) for row in rows), default=0)
    if size == 0 or longest > size:
        raise MetricInputError(
            "An accuracy matrix has one row for each stage and one column for each task; "
            f"got {size} rows and {longest} columns, expected as many columns as rows, at least one; "
            "pass accuracy[t][k] of all stages."
        )
    matrix = np.full((size, size), np.nan)
    for t, row in enumerate(rows):
        matrix[t, : len(row)] = [np.nan if entry is None else float(entry) for entry in row]
    _refuse_infinite(matrix, "accuracy matrix")
    return matrix


def as_vector(values: AccuracyVector, size: int, name: str) -> np.ndarray:
    """A float64 copy [T] of one accuracy per task; None becomes NaN.

    Raises:
        MetricInputError: there are not exactly `size` values, or one is infinite.
    """
    vector = np.array([np.nan if value is None else float(value) for value in values])
    if vector.shape != (size,):
        raise MetricInputError(
            f"'{name}' holds one accuracy for each task; got {vector.size}, expected {size} as in the "
            "accuracy matrix; pass the values in the order of the task sequence, None for one that was "
            "not measured."
        )
    _refuse_infinite(vector, name)
    return vector


def mean_or_none(values: np.ndarray) -> float | None:
    """The mean, or None if there is nothing to average or something in it was not measured."""
    if values.size == 0 or np.isnan(values).any():
        return None
    return float(values.mean())


def ratios(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    """Elementwise quotients, NaN where the denominator is 0."""
    quotients = np.full(numerators.shape, np.nan)
    np.divide(numerators, denominators, out=quotients, where=denominators != 0)
    return quotients


def _refuse_infinite(values: np.ndarray, name: str) -> None:
    if np.isinf(values).any():
        where = tuple(int(index) for index in np.argwhere(np.isinf(values))[0])
        raise MetricInputError(
            f"Accuracies are finite; entry {where} of '{name}' is {values[where]}, expected a number or "
            "None; measure it again, or pass None for one that was not measured."
        )
