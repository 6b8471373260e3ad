"""The least that methods must compute: decompositions and products of their matrices, timed on this machine.

A decomposition is counted as one of the smaller Gram matrix, with the product that makes it: of what is exact and
generally known this is the cheapest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import torch

from merge_lib.files.layout import Shape
from merge_lib.layers import Layer
from merge_lib.ops.cores import one_core

_RATE_SIZE = 768  # of the products by which the rate is measured
_DOP_STEPS = 200


@dataclass
class Machine:
    """Seconds of one core, measured when they are first asked for, the best of two."""

    _eigen: dict[int, float] = field(default_factory=dict)
    _rates: dict[torch.dtype, float] = field(default_factory=dict)

    def eigen(self, size: int) -> float:
        """Eigenvalues and vectors of a symmetric float64 matrix."""
        if size not in self._eigen:
            matrix = torch.randn(size, size, dtype=torch.float64)
            self._eigen[size] = _best(lambda: torch.linalg.eigh(matrix + matrix.T))
        return self._eigen[size]

    def product(self, rows: int, inner: int, columns: int, dtype: torch.dtype = torch.float64) -> float:
        """A product of two matrices, by the rate of a larger one."""
        if dtype not in self._rates:
            matrix = torch.randn(_RATE_SIZE, _RATE_SIZE, dtype=dtype)
            self._rates[dtype] = _best(lambda: matrix @ matrix) / _RATE_SIZE**3
        return self._rates[dtype] * rows * inner * columns

    def decomposition(self, rows: int, columns: int) -> float:
        """Singular values and both sides."""
        small, large = sorted((rows, columns))
        return 2 * self.product(small, large, small) + self.eigen(small)


def _best(act: Callable[[], object]) -> float:
    with one_core():
        times = []
        for _ in range(3):  # the first does not count
            started = perf_counter()
            act()
            times.append(perf_counter() - started)
    return min(times[1:])


def _svd_of_sum(machine: Machine, rows: int, columns: int, _experts: int, _observed: int) -> float:
    small, large = sorted((rows, columns))
    return machine.decomposition(rows, columns) + machine.product(small, small, large)


def _tsv(machine: Machine, rows: int, columns: int, experts: int, _observed: int) -> float:
    small, large = sorted((rows, columns))
    whitening = 2 * (machine.eigen(small) + machine.product(small, large, small))
    return experts * machine.decomposition(rows, columns) + whitening + machine.product(rows, small, columns)


def _opcm(machine: Machine, rows: int, columns: int, experts: int, _observed: int) -> float:
    return (experts - 1) * machine.decomposition(rows, columns)


def _dop(machine: Machine, rows: int, columns: int, experts: int, _observed: int) -> float:
    single = torch.float32
    step = machine.product(rows, rows, columns, single) + machine.product(rows, columns, columns, single)
    return (experts - 1) * (2 * machine.decomposition(rows, columns) + 2 * _DOP_STEPS * step)


def _wudi(machine: Machine, rows: int, columns: int, experts: int, _observed: int) -> float:
    products = experts * 2 * machine.product(columns, rows, columns)
    return products + machine.eigen(columns) + machine.product(rows, columns, columns)


def _knots(machine: Machine, rows: int, columns: int, experts: int, _observed: int) -> float:
    wide = experts * columns
    return machine.decomposition(rows, wide) + machine.product(rows, min(rows, wide), columns)


def _regmean(machine: Machine, rows: int, columns: int, experts: int, _observed: int) -> float:
    solve = machine.product(columns, columns, columns) / 6 + machine.product(rows, columns, columns)
    return experts * machine.product(rows, columns, columns) + solve


def _cat(machine: Machine, rows: int, columns: int, experts: int, observed: int) -> float:
    products = experts * machine.product(experts * observed, columns, rows)
    return products + experts * machine.eigen(min(rows, 2 * (experts - 1) * observed))


def _lot(machine: Machine, rows: int, columns: int, experts: int, observed: int) -> float:
    wide = experts * observed
    return machine.decomposition(wide, columns) + 2 * machine.product(columns, wide, rows)


_OF = {
    **dict.fromkeys(("iso_c",), _svd_of_sum),
    **dict.fromkeys(("tsv", "iso_cts"), _tsv),
    **dict.fromkeys(("knots", "knots_dare"), _knots),
    **{"opcm": _opcm, "dop": _dop, "wudi": _wudi, "regmean": _regmean, "cat": _cat, "lot": _lot},
}
_EMBEDDINGS_TOO = frozenset({"iso_c", "tsv", "iso_cts", "knots", "knots_dare", "opcm"})
SPECTRAL = frozenset(_OF)


def arithmetic_floor(
    method: str, layers: Sequence[Layer], experts: int, observed: int, threads: int, machine: Machine
) -> float:
    """Seconds of decompositions and products on so many cores; 0 for methods of which none is known.

    Args:
        method: its name.
        layers: of all tensors.
        experts: how many.
        observed: rows of features of each expert.
        threads: among which the tensors are spread.
        machine: what it can do.
    """
    if method not in _OF:
        return 0.0
    roles = ("linear", "embedding") if method in _EMBEDDINGS_TOO else ("linear",)
    matrices: list[Shape] = [layer.shape for layer in layers if layer.role in roles]
    seconds = [_OF[method](machine, *shape, experts, observed) for shape in matrices]
    return max(sum(seconds) / threads, max(seconds, default=0.0))
