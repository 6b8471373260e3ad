"""How much memory a method's function takes while it works, beside what it is given."""

from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Self

from merge_lib.layers import Shape

_WIDE = 8  # bytes of a float64


@dataclass(frozen=True)
class WorkingSet:
    """The most bytes at a time, as a sum of sizes; what the function returns is counted, its arguments are not.

    A matrix is [outputs, inputs]; a tensor of more axes counts as [first, all others]. Of a tensor of fewer axes
    only `stacks` and `tensors` count.

    Attributes:
        stacks: copies of the task vectors of all experts, in their dtype.
        tensors: copies of one tensor, in that dtype.
        outputs: float64 matrices [outputs, outputs].
        inputs: float64 matrices [inputs, inputs].
        smaller: the same of the smaller of the two sides.
        observed: float64 copies of the observed rows of all experts, [rows, inputs].
        projected: float64 matrices [rows, outputs].
        pairs: the same, as many for each expert.
    """

    stacks: float = 4.0
    tensors: float = 4.0
    outputs: float = 0.0
    inputs: float = 0.0
    smaller: float = 0.0
    observed: float = 0.0
    projected: float = 0.0
    pairs: float = 0.0

    def size_bytes(self, experts: int, shape: Shape, itemsize: int, rows: int = 0) -> int:
        """For one tensor, or a piece of one.

        Args:
            experts: how many are merged.
            shape: of the tensor.
            itemsize: bytes of an entry of the arithmetic.
            rows: of the observations of all experts together; more than the inputs are made as many.
        """
        entries = (self.stacks * experts + self.tensors) * itemsize * prod(shape)
        if len(shape) < 2:
            return int(entries)
        outputs, inputs = shape[0], prod(shape[1:])
        squares = (
            self.outputs * outputs**2 + self.inputs * inputs**2 + self.smaller * min(outputs, inputs) ** 2
        )
        projections = (self.projected + self.pairs * experts) * min(rows, experts * inputs) * outputs
        return int(entries + _WIDE * (squares + projections + self.observed * rows * inputs))

    @classmethod
    def from_dict(cls, fields: dict[str, float]) -> Self:
        """The inverse of `to_dict`."""
        return cls(**fields)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)
