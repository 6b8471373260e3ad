"""Each method with a kernel: from a tensor's parameters, and passes over it, to the call that merges it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from math import fsum, sqrt
from operator import add
from typing import Any

import numpy as np

from merge_lib.kernels import calls as layout
from merge_lib.ops.arcs import arc_weights
from merge_lib.streaming.calls import Call
from merge_lib.streaming.planning import Work
from merge_lib.streaming.rounding import rounded
from merge_lib.streaming.scanning import Scan
from merge_lib.streaming.thinning import THINNERS, Thinned

_NEARLY_PARALLEL = 0.9995  # as in merge_lib.methods.slerp


@dataclass(frozen=True)
class Context:
    """What an operation is given beside its work.

    Attributes:
        seed: of random draws.
        scan: passes over the tensor.
        thresholds: bits of each expert's threshold over the whole model; None where there are none.
    """

    seed: int
    scan: Scan
    thresholds: Sequence[int] | None = None


def prepare(work: Work, context: Context) -> Call:
    """The call that merges a tensor, after the passes that it needs."""
    return _OPERATIONS[work.method](work, context)


def _experts(work: Work) -> tuple[int, ...]:
    return tuple(range(1, len(work.inputs)))


def _models(work: Work) -> tuple[int, ...]:
    """The places of the experts for a kernel that wants no base."""
    return (-1, *_experts(work))


def _sum(places: tuple[int, ...], mode: int, numbers: Sequence[float], picked: int = 0) -> Call:
    words = np.array([mode, picked], np.int64)
    return Call("linear.weighted_sum", places, _as_floats(numbers), words)


def _average(work: Work, _: Context) -> Call:
    count = len(_experts(work))
    return _sum(_models(work), layout.SUM, [count, *[1.0] * count])


def _running_average(work: Work, _: Context) -> Call:
    return _sum(_models(work), layout.RUNNING, [0.0] * (len(work.inputs)))


def _interpolation(places: tuple[int, ...], first: float, second: float) -> Call:
    return _sum(places, layout.FOLD, [0.0, first, second, *[0.0] * len(places)])


def _between(work: Work, position: float) -> Call:
    """On the line; its ends bit for bit."""
    if position in (0, 1):
        picked = 0 if position == 0 else len(_experts(work)) - 1
        return _sum(_models(work), layout.PICK, [0.0] * len(work.inputs), picked)
    return _interpolation(_models(work), 1 - position, position)


def _linear(work: Work, _: Context) -> Call:
    return _between(work, work.params["position"])


def _ema(work: Work, _: Context) -> Call:
    return _between(work, work.params["weight"])


def _slerp(work: Work, context: Context) -> Call:
    position, places = work.params["position"], _models(work)
    if len(places) == 2:  # one expert: nothing to interpolate
        return _sum(places, layout.PICK, [0.0, 0.0])
    if position in (0, 1):
        return _between(work, position)
    cosine = _cosine(places, context)
    if abs(cosine) > _NEARLY_PARALLEL:
        return _interpolation(places, 1 - position, position)
    return _interpolation(places, *arc_weights(cosine, position))


def _cosine(places: tuple[int, ...], context: Context) -> float:
    """Between the first two; 1 where one is zero."""
    words = np.array([3, 0, 0, 0, 1, 1, 0, 1], np.int64)
    left, right, mixed = context.scan.sums(Call("sums.products", places, words=words), 3)
    norms = sqrt(left) * sqrt(right)
    return mixed / norms if norms > 0 else 1.0


def _mergekit_linear(work: Work, _: Context) -> Call:
    weights = _as_floats(work.params["weight"])
    divisor = reduce(add, weights) if work.params["normalize"] else 0.0
    return _sum(_models(work), layout.SUM, [divisor, *weights])


def _passthrough(work: Work, _: Context) -> Call:
    return _sum(_models(work), layout.SUM, [0.0, *work.params["scale"]])


def _mergekit_slerp(work: Work, context: Context) -> Call:
    places, t = (-1, 0, 1), work.params["t"]
    cosine = _cosine(places, context)
    if abs(cosine) > _NEARLY_PARALLEL:
        return _interpolation(places, 1 - t, t)
    return _interpolation(places, *arc_weights(cosine, t))


def _model_stock(work: Work, context: Context) -> Call:
    """By the mean cosine between task vectors, rounded as the reference rounds it."""
    count, places = len(_experts(work)), (0, *_experts(work))
    pairs = list(combinations(range(count), 2))
    listed = [(k, k) for k in range(count)] + pairs
    words = np.array([len(listed), 1, *(k for pair in listed for k in pair)], np.int64)
    sums = context.scan.sums(Call("sums.products", places, words=words), len(listed))
    cosines = []
    for (i, j), product in zip(pairs, sums[count:], strict=True):
        lengths = sqrt(sums[i]) * sqrt(sums[j])
        cosines.append(min(1.0, max(-1.0, product / lengths)) if lengths > 0 else 0.0)
    t = rounded(_stock_share(fsum(cosines) / len(cosines), count), work.arithmetic)
    numbers = [count, t, rounded(1 - t, work.arithmetic)]
    return Call("linear.towards_mean", places, _as_floats(numbers))


def _stock_share(cosine: float, count: int) -> float:
    """How far from the base to the mean of so many models."""
    return count * cosine / (1 + (count - 1) * cosine)


@dataclass(frozen=True)
class Combining:
    """How thinned task vectors are added up.

    Attributes:
        combine: `layout.ADD` and so on.
        normalize: 0 for no division, 1 by the weights, 2 by the weights but at least 1e-6.
        weights: of each expert, rounded as the arithmetic rounds; None for none.
    """

    combine: int
    scale: float = 1.0
    normalize: int = 0
    weights: Sequence[float] | None = None


def _as_floats(numbers: Any) -> np.ndarray:
    """In float32; what lies beyond becomes infinite, and the merge is refused for what follows from it."""
    with np.errstate(over="ignore"):
        return np.array(numbers, np.float32)


def _task_vectors(work: Work, thinned: Thinned, how: Combining) -> Call:
    """The call of the kernel `task_vectors.merge`."""
    words = thinned.words.copy()
    words[layout.COMBINE], words[layout.NORMALIZE] = how.combine, how.normalize
    words[layout.USE_WEIGHTS], words[layout.HAS_SCALE] = how.weights is not None, how.scale != 1
    weights = [1.0] * len(_experts(work)) if how.weights is None else how.weights
    numbers = [how.scale]
    for weight, divisor, factor in zip(weights, thinned.divisors, thinned.factors, strict=True):
        numbers += [weight, divisor, factor]
    total = rounded(fsum(rounded(weight, work.arithmetic) for weight in weights), work.arithmetic)
    numbers.append(total if abs(total) >= 1e-8 else 1.0)
    places = (0, *_experts(work))
    return Call("task_vectors.merge", places, _as_floats(numbers), words, thinned.masks, thinned.store)


def _task_arithmetic(work: Work, _: Context) -> Call:
    return _task_vectors(work, Thinned.nothing(work), Combining(layout.ADD, work.params["scale"]))


def _magmax(work: Work, _: Context) -> Call:
    return _task_vectors(work, Thinned.nothing(work), Combining(layout.LARGEST, work.params["scale"]))


def _thin(work: Work, context: Context) -> Thinned:
    return THINNERS[work.method](work, context.scan, context.seed, context.thresholds)


def _dare(work: Work, context: Context) -> Call:
    return _task_vectors(work, _thin(work, context), Combining(layout.ADD, work.params["scale"]))


def _ties(work: Work, context: Context) -> Call:
    return _task_vectors(work, _thin(work, context), Combining(layout.ELECT_COUNTED, work.params["scale"]))


def _mergekit_family(work: Work, context: Context) -> Call:
    """Task arithmetic and its descendants, as `mergekit.methods.combine` adds them."""
    params: Mapping[str, Any] = work.params
    elects = params.get("elect", work.method == "mergekit.ties")
    combine = layout.ELECT_WEIGHTED if elects else layout.ADD
    weights = [rounded(weight, work.arithmetic) for weight in params["weight"]]
    thinned = _thin(work, context) if work.method in THINNERS else Thinned.nothing(work)
    how = Combining(combine, params["scale"], int(params["normalize"]), weights)
    return _task_vectors(work, thinned, how)


def _sce(work: Work, context: Context) -> Call:
    thinned = _thin(work, context)
    call = Call("task_vectors.energies", (0, *_experts(work)), words=thinned.words)
    sums = context.scan.sums(call, len(_experts(work)))
    energies = [rounded(one / max(work.count, 1), work.arithmetic) for one in sums]
    weights = _energy_weights(energies, work.arithmetic)
    return _task_vectors(work, thinned, Combining(layout.ELECT_PLAIN, 1.0, 2, weights))


def _energy_weights(energies: Sequence[float], arithmetic: str) -> list[float]:
    """Each energy's share of their sum; equal shares where all are 0."""
    total = rounded(fsum(energies), arithmetic)
    if total <= 0:
        return [rounded(1 / len(energies), arithmetic)] * len(energies)
    return [rounded(energy / total, arithmetic) for energy in energies]


_OPERATIONS: dict[str, Callable[[Work, Context], Call]] = {
    "average": _average,
    "dare": _dare,
    "ema": _ema,
    "linear": _linear,
    "magmax": _magmax,
    "running_average": _running_average,
    "slerp": _slerp,
    "task_arithmetic": _task_arithmetic,
    "ties": _ties,
    "mergekit.linear": _mergekit_linear,
    "mergekit.model_stock": _model_stock,
    "mergekit.passthrough": _passthrough,
    "mergekit.sce": _sce,
    "mergekit.slerp": _mergekit_slerp,
    **dict.fromkeys(
        (
            "mergekit.breadcrumbs", "mergekit.breadcrumbs_ties", "mergekit.dare_linear", "mergekit.dare_ties",
            "mergekit.della", "mergekit.della_linear", "mergekit.task_arithmetic", "mergekit.ties",
        ),
        _mergekit_family,
    ),
}  # fmt: skip
METHODS = frozenset(_OPERATIONS)
