"""The model that ships with the package: small regression trees and an interval, in a JSON file.

A prediction is of u = asinh(loss / 5), which is nearly the loss where it is small and its logarithm where it is large,
and is given back in points. The file holds its version, the digest of the table that it was learned from, and what
it was worth on studies left out of that table. Reading it imports numpy and nothing heavier.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Float, Int

from merge_lib.errors import CheckpointCorruptError, SpecError

VERSION = 1
LEVEL = 0.8  # of the intervals
SOFTNESS = 5.0  # points up to which a loss counts as it is
Kind = Literal["weights", "inputs"]
Matrix = Float[np.ndarray, "rows features"]
Values = Float[np.ndarray, " rows"]
Range = tuple[float, float]


@dataclass(frozen=True)
class Trees:
    """An ensemble of regression trees whose values are added; every tree's nodes are in one row, −1 ends a branch.

    Attributes:
        start: what the values are added to.
        features: [trees, nodes], which column a node looks at; −1 in a leaf.
        thresholds: [trees, nodes]; a value of at most the threshold goes left.
        left, right: [trees, nodes].
        values: [trees, nodes].
    """

    start: float
    features: Int[np.ndarray, "trees nodes"]
    thresholds: Float[np.ndarray, "trees nodes"]
    left: Int[np.ndarray, "trees nodes"]
    right: Int[np.ndarray, "trees nodes"]
    values: Float[np.ndarray, "trees nodes"]

    def predict(self, matrix: Matrix) -> Values:
        """The sum of a leaf of each tree."""
        matrix = matrix.astype(np.float32)  # as the trees were grown
        rows, trees = np.arange(len(matrix))[:, None], np.arange(len(self.features))[None, :]
        places = np.zeros((len(matrix), len(self.features)), dtype=np.int64)
        while True:
            asked = self.features[trees, places]
            if (asked < 0).all():
                return self.start + self.values[trees, places].sum(axis=1)
            goes_left = matrix[rows, np.maximum(asked, 0)] <= self.thresholds[trees, places]
            following = np.where(goes_left, self.left[trees, places], self.right[trees, places])
            places = np.where(asked < 0, places, following)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {name: _plain(getattr(self, name)) for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        whole, real = ("features", "left", "right"), ("thresholds", "values")
        arrays = {name: np.array(plain[name], dtype=np.int64) for name in whole}
        arrays |= {name: np.array(plain[name], dtype=np.float64) for name in real}
        return cls(start=float(plain["start"]), **arrays)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Interval:
    """How far the softened loss lies from its prediction on studies left out.

    Attributes:
        at: predictions, rising; between two of them low and high are interpolated, beyond the ends they stay.
        low: added to the prediction at each, the lower end.
        high: the upper end.
    """

    at: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def around(self, predicted: Values) -> tuple[Values, Values]:
        """Both ends."""
        low, high = (np.interp(predicted, self.at, ends) for ends in (self.low, self.high))
        return predicted + low, predicted + high


@dataclass(frozen=True)
class Prediction:
    """What a task is expected to lose by a merge, in points of accuracy; an interval of 80 %."""

    loss: float
    low: float
    high: float
    outside: tuple[str, ...] = ()  # features beyond all that the table has


@dataclass(frozen=True)
class Predictor:
    """One model.

    Attributes:
        names: its features, in the order of the columns.
        ranges: of each feature the ranges of its values in the studies of the table, those that overlap as one.
        scores: on studies left out, and those of the baselines.
    """

    names: tuple[str, ...]
    trees: Trees
    interval: Interval
    ranges: tuple[tuple[Range, ...], ...]
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def predict(self, rows: Sequence[Mapping[str, float]]) -> list[Prediction]:
        """For each row of features.

        Raises:
            SpecError: a feature is missing.
        """
        if not rows:
            return []
        if missing := [name for name in self.names if name not in rows[0]]:
            raise SpecError(
                f"The forecast's model asks for the features {', '.join(missing)}, which the rows do not have. "
                "Measure them with this version of the package."
            )
        matrix = np.array([[row[name] for name in self.names] for row in rows])
        return [
            Prediction(*map(float, found), outside=self.outside(row))
            for found, row in zip(zip(*self.predict_matrix(matrix), strict=True), matrix, strict=True)
        ]

    def predict_matrix(self, matrix: Matrix) -> tuple[Values, Values, Values]:
        """Losses in points, and both ends of their intervals."""
        predicted = self.trees.predict(matrix)
        low, high = self.interval.around(predicted)
        return harden(predicted), harden(low), harden(high)

    def outside(self, row: Float[np.ndarray, " features"]) -> tuple[str, ...]:
        """Names of the features whose value no study of the table comes near, by a twentieth of its own range."""
        return tuple(
            name
            for name, value, ranges in zip(self.names, row, self.ranges, strict=True)
            if not any(_is_near(value, *ends) for ends in ranges)
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "features": list(self.names),
            "trees": self.trees.to_dict(),
            "interval": {name: list(getattr(self.interval, name)) for name in ("at", "low", "high")},
            "ranges": [[list(ends) for ends in ranges] for ranges in self.ranges],
            "scores": {name: dict(values) for name, values in self.scores.items()},
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        ends = {name: tuple(map(float, plain["interval"][name])) for name in ("at", "low", "high")}
        ranges = tuple(tuple((float(low), float(high)) for low, high in some) for some in plain["ranges"])
        trees = Trees.from_dict(plain["trees"])
        return cls(tuple(plain["features"]), trees, Interval(**ends), ranges, plain["scores"])


@dataclass(frozen=True)
class ForecastModel:
    """What ships with the package.

    Attributes:
        weights: looks at weights alone.
        inputs: looks at unlabelled inputs, too.
        table: digest, rows, merges and studies of what it was learned from.
    """

    weights: Predictor
    inputs: Predictor
    table: Mapping[str, Any]

    def of(self, kind: Kind) -> Predictor:
        """The model for what is known."""
        return self.inputs if kind == "inputs" else self.weights

    def save(self, path: Path) -> None:
        """As JSON with sorted keys, whole or not at all."""
        told = {"version": VERSION, "table": dict(self.table)}
        told |= {"weights": self.weights.to_dict(), "inputs": self.inputs.to_dict()}
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text(json.dumps(told, sort_keys=True, separators=(",", ":")) + "\n", encoding="utf-8")
        partial.replace(path)

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """Read a model; without a path the package's own.

        Raises:
            CheckpointCorruptError: the file cannot be read, is no model, or of another version.
        """
        place = files("merge_lib.forecast").joinpath("model.json") if path is None else Path(path)
        try:
            return cls.from_dict(json.loads(place.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise CheckpointCorruptError(
                f"The forecast's model {place} cannot be used: {exc}. Install the package again, or make the model "
                "anew with `mergeline forecast --rebuild`."
            ) from exc

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Self:
        """From what the file holds.

        Raises:
            ValueError: it is of another version.
        """
        if told["version"] != VERSION:
            raise ValueError(f"its version is {told['version']}, this package reads {VERSION}")
        predictors = [Predictor.from_dict(told[kind]) for kind in ("weights", "inputs")]
        return cls(*predictors, table=told["table"])


def soften(losses: Values) -> Values:
    """asinh(loss / 5)."""
    return np.arcsinh(losses / SOFTNESS)


def harden(values: Values) -> Values:
    """Its inverse, at most 100 points either way."""
    return np.clip(SOFTNESS * np.sinh(np.clip(values, -5, 5)), -100, 100)


def _is_near(value: float, low: float, high: float) -> bool:
    slack = 0.05 * (high - low)
    return low - slack <= value <= high + slack


def _plain(value: Any) -> Any:
    """Numbers that JSON takes, rounded to nine digits."""
    if isinstance(value, np.ndarray):
        kept = value if value.dtype.kind == "i" else np.array([f"{x:.9g}" for x in value.ravel()], float)
        return kept.reshape(value.shape).tolist()
    return float(value)
