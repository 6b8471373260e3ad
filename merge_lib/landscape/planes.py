"""The plane through a base and two experts, and where other checkpoints lie, seen from it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from merge_lib.errors import SpecError
from merge_lib.landscape.paths import check_alike
from merge_lib.types import StateDict

FLAT = 1e-5  # a triangle whose height is at most this share of its second side counts as a line


@dataclass(frozen=True)
class Plane:
    """All models base + a · (first − base) + b · (second − base).

    Coordinates are those of the orthonormal basis u = τ_1 / ‖τ_1‖ and v = (τ_2 − ⟨τ_2, u⟩ u) / ‖…‖ with the base at the
    origin, so that distances on the map are distances between weights. Floating tensors count, buffers among them.
    Reference: Garipov et al., "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs", NeurIPS 2018,
    arXiv:1802.10026, appendix A.1 on visualisation.

    Attributes:
        first_length: ‖τ_1‖, the first expert's x.
        second: coordinates of the second expert; its y is positive.
    """

    base: StateDict
    first: StateDict
    other: StateDict
    first_length: float
    second: tuple[float, float]

    @classmethod
    def through(
        cls, base: StateDict, first: StateDict, second: StateDict, names: tuple[str, str, str] | None = None
    ) -> "Plane":
        """The plane of three models; memory holds a reference to each, and one tensor's differences in float64.

        Args:
            base: the origin.
            first: gives the direction of x.
            second: lies above it.
            names: what messages call the three.

        Raises:
            CheckpointMismatchError: they differ in names or shapes.
            SpecError: two of them are equal, or the three lie on one line.
        """
        called = names or ("base", "first expert", "second expert")
        check_alike(list(zip(called, (base, first, second), strict=True)))
        squares = [
            _product(base, first, first),
            _product(base, first, second),
            _product(base, second, second),
        ]
        length, side = math.sqrt(squares[0]), math.sqrt(squares[2])
        if length == 0 or side == 0:
            same = called[1] if length == 0 else called[2]
            raise SpecError(
                f"A plane needs three different models, but '{same}' equals '{called[0]}'. "
                "Choose an expert that was trained, or draw a path."
            )
        x = squares[1] / length
        y = _height(base, first, second, squares[1] / squares[0])
        if y <= FLAT * side:
            raise SpecError(
                f"'{called[0]}', '{called[1]}' and '{called[2]}' lie on one line: the second task vector is "
                f"{squares[1] / squares[0]:.6g} times the first, and only {y / side:.2g} of its length is across. "
                "A plane needs three models that do not; choose another expert, or draw the path through them."
            )
        return cls(base, first, second, length, (x, y))

    @property
    def corners(self) -> list[tuple[float, float]]:
        """Coordinates of base, first and second expert."""
        return [(0.0, 0.0), (self.first_length, 0.0), self.second]

    def at(self, x: float, y: float) -> dict[str, Tensor]:
        """The model at a place; at a corner it is the checkpoint itself, bit by bit.

        Tensors that are not floating are the base's.
        """
        corners = (self.base, self.first, self.other)
        if (x, y) in self.corners:
            return dict(corners[self.corners.index((x, y))])
        a, b = self.shares(x, y)
        return {
            name: (1 - a - b) * value + a * self.first[name] + b * self.other[name]
            if value.is_floating_point()
            else value
            for name, value in self.base.items()
        }

    def shares(self, x: float, y: float) -> tuple[float, float]:
        """How far the place is along the two task vectors: (a, b)."""
        b = y / self.second[1]
        return (x - b * self.second[0]) / self.first_length, b

    def locate(self, model: StateDict) -> tuple[float, float, float]:
        """Coordinates of a model's projection, and its distance from the plane.

        Raises:
            CheckpointMismatchError: it differs from the base in names or shapes.
        """
        check_alike([("base", self.base), ("model", model)])
        x = _product(self.base, model, self.first) / self.first_length
        y = (_product(self.base, model, self.other) - x * self.second[0]) / self.second[1]
        a, b = self.shares(x, y)
        away = 0.0
        for name in _floating(self.base):
            base = self.base[name].double()
            off = model[name].double() - base
            off -= a * (self.first[name].double() - base) + b * (self.other[name].double() - base)
            away += float(off.square().sum())
        return x, y, math.sqrt(away)


def _product(base: StateDict, left: StateDict, right: StateDict) -> float:
    """⟨left − base, right − base⟩ over all floating tensors."""
    total = 0.0
    for name in _floating(base):
        origin = base[name].double()
        total += float(((left[name].double() - origin) * (right[name].double() - origin)).sum())
    return total


def _height(base: StateDict, first: StateDict, second: StateDict, share: float) -> float:
    """‖τ_2 − share · τ_1‖."""
    total = 0.0
    for name in _floating(base):
        origin = base[name].double()
        across = (second[name].double() - origin) - share * (first[name].double() - origin)
        total += float(across.square().sum())
    return math.sqrt(total)


def _floating(state: Mapping[str, Tensor]) -> list[str]:
    return [name for name, value in state.items() if value.is_floating_point()]
