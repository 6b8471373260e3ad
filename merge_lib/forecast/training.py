"""Learning the forecast from its table: boosted trees, and intervals from studies left out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from merge_lib.forecast.answers import INPUT_NAMES
from merge_lib.forecast.features import NAMES, WHOLE
from merge_lib.forecast.judging import BASELINES, WITH_INPUTS, Fitted, judge
from merge_lib.forecast.model import LEVEL, ForecastModel, Interval, Kind, Predictor, Range, Trees, soften
from merge_lib.forecast.table import Table

_OF_MODEL = tuple(name for name in NAMES if name.endswith(f"({WHOLE})"))
FEATURES: dict[Kind, tuple[str, ...]] = {"weights": NAMES, "inputs": (*_OF_MODEL, *INPUT_NAMES)}
_FOLDS = 5  # of studies, for the residuals that an interval is made of
_KNOTS = 7


@dataclass(frozen=True)
class Settings:
    """How trees are grown; how they were chosen is told in docs/forecast.md.

    Attributes:
        trees: how many.
        depth: of each.
        rate: share of each tree's values that is added.
        rows: share of the rows that a tree sees.
        columns: share of the features that a split chooses from.
        leaf: share of the rows that a leaf has at least.
    """

    trees: int = 120
    depth: int = 4
    rate: float = 0.07
    rows: float = 0.5
    columns: float = 0.1
    leaf: float = 0.02
    seed: int = 0


SETTINGS: dict[Kind, Settings] = {"weights": Settings(), "inputs": Settings(columns=0.3)}


def learn(table: Table, settings: Mapping[Kind, Settings] = SETTINGS) -> ForecastModel:
    """Fit both models on the whole table, and judge each by leaving studies out."""
    found = {kind: _learn_kind(_rows_for(table, kind), kind, settings[kind]) for kind in FEATURES}
    told = {
        "digest": table.digest,
        "rows": len(table.losses),
        "merges": len(np.unique(table.merges)),
        "studies": [str(study) for study in np.unique(table.studies)],
    }
    return ForecastModel(found["weights"], found["inputs"], told)


def _rows_for(table: Table, kind: Kind) -> Table:
    return table.only(table.has_inputs) if kind == "inputs" else table


def _learn_kind(table: Table, kind: Kind, settings: Settings) -> Predictor:
    names = FEATURES[kind]
    fitted = fit(table, names, settings)
    judged = judge(table, lambda rows: as_fitted(fit(rows, names, settings)))
    scores: dict[str, Mapping[str, float]] = {"model": judged.to_dict()}
    baselines = {**BASELINES, **(WITH_INPUTS if kind == "inputs" else {})}
    scores |= {name: judge(table, baseline).to_dict() for name, baseline in baselines.items()}
    scores |= {f"study {name}": values for name, values in judged.by_study.items()}
    return Predictor(names, fitted.trees, fitted.interval, fitted.ranges, scores)


def fit(table: Table, names: Sequence[str], settings: Settings) -> Predictor:
    """A model without scores; its interval comes from studies left out in turn."""
    predicted, residuals = left_out(table, names, settings)
    matrix = table.matrix(names)
    weights = study_weights(table)
    interval = make_interval(predicted, residuals, weights)
    return Predictor(
        tuple(names),
        grow(matrix, soften(table.losses), weights, settings),
        interval,
        find_ranges(table, names),
    )


def find_ranges(table: Table, names: Sequence[str]) -> tuple[tuple[Range, ...], ...]:
    """Of each feature the ranges of its values in each study, those that overlap as one, rising."""
    return tuple(
        _united(
            (float(own.min()), float(own.max()))
            for study in np.unique(table.studies)
            for own in (table.columns[name][table.studies == study],)
        )
        for name in names
    )


def _united(ranges: Iterable[Range]) -> tuple[Range, ...]:
    found: list[Range] = []
    for low, high in sorted(ranges):
        if found and low <= found[-1][1]:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return tuple(found)


def as_fitted(predictor: Predictor) -> Fitted:
    """As `merge_lib.forecast.judging` asks it."""
    return lambda rows: predictor.predict_matrix(rows.matrix(predictor.names))


def left_out(table: Table, names: Sequence[str], settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Softened predictions of each row by a model that did not see its study, and what is left of the losses."""
    matrix, target, weights = table.matrix(names), soften(table.losses), study_weights(table)
    predicted = np.zeros(len(target))
    for held_out in _folds(table):
        trees = grow(matrix[~held_out], target[~held_out], weights[~held_out], settings)
        predicted[held_out] = trees.predict(matrix[held_out])
    return predicted, target - predicted


def _folds(table: Table) -> Iterator[np.ndarray]:
    """Masks of some studies each, that together are all."""
    studies = np.unique(table.studies)
    count = min(_FOLDS, len(studies))
    for place in range(count):
        yield np.isin(table.studies, studies[place::count])


def study_weights(table: Table) -> np.ndarray:
    """[rows]; every study weighs the same, and the mean is 1."""
    _, places, counts = np.unique(table.studies, return_inverse=True, return_counts=True)
    return len(places) / (len(counts) * counts[places])


def grow(matrix: np.ndarray, target: np.ndarray, weights: np.ndarray, settings: Settings) -> Trees:
    """Gradient boosting with squared error, by scikit-learn, as arrays of our own."""
    from sklearn.ensemble import GradientBoostingRegressor

    model = GradientBoostingRegressor(
        n_estimators=settings.trees,
        max_depth=settings.depth,
        learning_rate=settings.rate,
        subsample=settings.rows,
        max_features=settings.columns,
        min_samples_leaf=settings.leaf,
        random_state=settings.seed,
    )
    model.fit(matrix.astype(np.float32), target, sample_weight=weights)
    grown = [one.tree_ for one in model.estimators_[:, 0]]
    nodes = max(tree.node_count for tree in grown)

    def stacked(name: str, fill: float, kind: type) -> np.ndarray:
        rows = np.full((len(grown), nodes), fill, dtype=kind)
        for place, tree in enumerate(grown):
            rows[place, : tree.node_count] = getattr(tree, name).reshape(-1)
        return rows

    return Trees(
        float(model.init_.constant_.item()),
        np.maximum(stacked("feature", -1, np.int64), -1),
        stacked("threshold", 0.0, np.float64),
        stacked("children_left", -1, np.int64),
        stacked("children_right", -1, np.int64),
        settings.rate * stacked("value", 0.0, np.float64),
    )


def make_interval(predicted: np.ndarray, residuals: np.ndarray, weights: np.ndarray) -> Interval:
    """Conformal intervals that widen with the prediction.

    At each of some quantiles of the predictions: the weighted quantiles of the residuals of the third of all rows
    whose predictions are nearest.
    """
    order = np.argsort(predicted, kind="stable")
    ordered, rest, mass = predicted[order], residuals[order], weights[order]
    at, low, high = [], [], []
    for centre in np.unique(np.quantile(ordered, np.linspace(0.05, 0.95, _KNOTS))):
        nearest = np.argsort(np.abs(ordered - centre), kind="stable")[: max(len(ordered) // 3, 1)]
        at.append(float(centre))
        ends = [
            weighted_quantile(rest[nearest], mass[nearest], q) for q in ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
        ]
        low.append(min(ends[0], 0.0))
        high.append(max(ends[1], 0.0))
    return Interval(tuple(at), tuple(low), tuple(high))


def weighted_quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """The least value up to which the weights are at least that share of all."""
    order = np.argsort(values, kind="stable")
    reached = weights[order].cumsum() / weights.sum()
    return float(values[order][min(int(np.searchsorted(reached, share)), len(values) - 1)])
