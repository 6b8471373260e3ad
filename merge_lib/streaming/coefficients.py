"""Which methods have a kernel, and the numbers that it is given."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import acos, sin, sqrt
from typing import Any

import numpy as np
import xxhash

from merge_lib.streaming import kernels

_NEARLY_PARALLEL = 0.9995  # as in merge_lib.methods.slerp
_DRAWS = 2**32


@dataclass(frozen=True)
class Recipe:
    """A method with a kernel, its parameters, and how many experts it merges."""

    method: str
    params: Mapping[str, Any]
    seed: int
    experts: int

    @property
    def trim(self) -> str | None:
        """Over what TIES looks for its thresholds; None where it, or another method, needs none."""
        if self.method != "ties" or self.params["density"] == 1:
            return None
        return self.params["trim"]


@dataclass(frozen=True)
class Coefficients:
    """What `kernels.merge_chunk` takes beside the bytes."""

    method: int
    numbers: np.ndarray
    thresholds: np.ndarray = field(default_factory=lambda: np.full(1, -1, np.float32))
    keys: np.ndarray = field(default_factory=lambda: np.zeros((1, 2), np.uint64))
    limit: np.uint64 = field(default_factory=lambda: np.uint64(0))


def coefficients(
    recipe: Recipe, name: str, thresholds: np.ndarray | None = None, cosine: float | None = None
) -> Coefficients:
    """The numbers for one tensor.

    Args:
        recipe: the merge.
        name: the tensor's name, which keys random draws.
        thresholds: of each expert's magnitudes, where the recipe trims.
        cosine: of the angle between the two experts, where the recipe interpolates on the arc.
    """
    return _BUILDERS[recipe.method](recipe, name, thresholds, cosine)


def _numbers(first: float = 0.0, second: float = 0.0) -> np.ndarray:
    return np.array([first, second], np.float32)


def _average(*_: Any) -> Coefficients:
    return Coefficients(kernels.AVERAGE, _numbers())


def _running_average(*_: Any) -> Coefficients:
    return Coefficients(kernels.RUNNING_AVERAGE, _numbers())


def _interpolate(position: float) -> Coefficients:
    if position in (0, 1):
        return Coefficients(kernels.LAST if position else kernels.FIRST, _numbers())
    return Coefficients(kernels.INTERPOLATE, _numbers(1 - position, position))


def _linear(recipe: Recipe, *_: Any) -> Coefficients:
    return _interpolate(recipe.params["position"])


def _ema(recipe: Recipe, *_: Any) -> Coefficients:
    return _interpolate(recipe.params["weight"])


def _slerp(recipe: Recipe, _name: str, _thresholds: Any, cosine: float | None) -> Coefficients:
    position = recipe.params["position"]
    if cosine is None or position in (0, 1) or abs(cosine) > _NEARLY_PARALLEL:
        return _interpolate(position)
    angle = acos(cosine)
    weights = sin((1 - position) * angle) / sin(angle), sin(position * angle) / sin(angle)
    return Coefficients(kernels.INTERPOLATE, _numbers(*weights))


def _task_arithmetic(recipe: Recipe, *_: Any) -> Coefficients:
    return Coefficients(kernels.TASK_ARITHMETIC, _numbers(recipe.params["scale"]))


def _magmax(recipe: Recipe, *_: Any) -> Coefficients:
    return Coefficients(kernels.MAGMAX, _numbers(recipe.params["scale"]))


def _dare(recipe: Recipe, name: str, *_: Any) -> Coefficients:
    keys = [_philox_key(recipe.seed, expert, name) for expert in range(recipe.experts)]
    density = recipe.params["density"]
    return Coefficients(
        kernels.DARE,
        _numbers(recipe.params["scale"], density),
        keys=np.stack(keys),
        limit=np.uint64(round(density * _DRAWS)),
    )


def _philox_key(seed: int, expert: int, name: str) -> np.ndarray:
    """As `merge_lib.ops.chance` gives it to numpy, and as numpy takes it."""
    key = xxhash.xxh3_128_intdigest(f"{seed}\0{expert}\0{name}".encode())
    return np.random.Philox(key=[key >> 64, key & (2**64 - 1)]).state["state"]["key"]


def _ties(recipe: Recipe, _name: str, thresholds: np.ndarray | None, _cosine: Any) -> Coefficients:
    if thresholds is None:
        thresholds = np.full(recipe.experts, -1, np.float32)
    return Coefficients(kernels.TIES, _numbers(recipe.params["scale"]), thresholds)


_BUILDERS = {
    "average": _average,
    "dare": _dare,
    "ema": _ema,
    "linear": _linear,
    "magmax": _magmax,
    "running_average": _running_average,
    "slerp": _slerp,
    "task_arithmetic": _task_arithmetic,
    "ties": _ties,
}


def cosine_of(products: np.ndarray) -> float:
    """From the products left·left, right·right and left·right."""
    norms = sqrt(products[0]) * sqrt(products[1])
    return float(products[2]) / norms if norms > 0 else 1.0


class Digits:
    """The exact k-th largest magnitude of each expert, from two counts of sixteen bits each."""

    def __init__(self, experts: int, share: float) -> None:
        self._share = share
        self.prefixes = np.full(experts, -1, np.int64)
        self._ranks = np.zeros(experts, np.int64)

    def close(self, counts: np.ndarray) -> None:
        """End a pass: sixteen more bits are known."""
        for expert, row in enumerate(counts):
            if self.prefixes[expert] < 0:
                total = int(row.sum())
                self._ranks[expert] = max(1, min(total, int(self._share * total + 0.5))) if total else 0
            from_top = np.cumsum(row[::-1])
            place = int(np.searchsorted(from_top, self._ranks[expert]))
            self._ranks[expert] -= from_top[place - 1] if place else 0
            prefix = max(self.prefixes[expert], 0)
            self.prefixes[expert] = (prefix << 16) | (len(row) - 1 - place)

    @property
    def thresholds(self) -> np.ndarray:
        """Float32, once both passes are closed."""
        return self.prefixes.astype(np.uint32).view(np.float32)
