"""Norms of task vectors over a whole model, and task vectors brought to one length."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from merge_lib.errors import MethodInputError
from merge_lib.ops.sums import inner_product, per_row


@dataclass(frozen=True)
class Lengths:
    """How long the task vectors are over the whole model, and how long each is to be.

    Every task vector τ_t is multiplied by c/‖τ_t‖, where c is the mean norm of those that moved; one that is zero
    stays zero. What a decoding method gives for one task is made of the scaled ones, too.

    Scope: whole model, over the tensors that are merged; one pass before the method's own.
    Variant: ours; nothing but a factor for each expert.
    Reference: that unequal norms hurt merging was found by Yoshida et al., "DisTaC: Conditioning Task Vectors via
        Distillation for Robust Model Merging", ICLR 2026, arXiv:2508.01148, who scale and then distil.

    Attributes:
        norms: ‖τ_t‖, one for each expert, in order.
        mean: c; 0 where nothing moved.
    """

    norms: tuple[float, ...]
    mean: float

    @classmethod
    def of_squares(cls, squares: Sequence[Sequence[float]], count: int) -> "Lengths":
        """From what each tensor adds.

        Args:
            squares: for each tensor ‖τ_t‖² of every expert.
            count: of experts.

        Raises:
            MethodInputError: a norm left the finite numbers.
        """
        norms = tuple(math.sqrt(_sum(tensor[row] for tensor in squares)) for row in range(count))
        if not all(map(math.isfinite, norms)):
            listed = ", ".join(str(row) for row, norm in enumerate(norms) if not math.isfinite(norm))
            raise MethodInputError(
                f"The norms of the task vectors of experts {listed} (from 0) left the finite numbers of float64. "
                "Leave `equalise` out, or train those experts again."
            )
        moved = [norm for norm in norms if norm > 0]
        return cls(norms, math.fsum(moved) / len(moved) if moved else 0.0)

    @property
    def factors(self) -> tuple[float, ...]:
        """What each task vector is multiplied by; 1 for one that is zero."""
        return tuple(self.mean / norm if norm > 0 else 1.0 for norm in self.norms)

    def of_rows(self, rows: Sequence[int]) -> "Lengths":
        """Of some of the experts, to the same length."""
        return type(self)(tuple(self.norms[row] for row in rows), self.mean)

    def equalised(self, task_vectors: Float[Tensor, " n *shape"]) -> Float[Tensor, " n *shape"]:
        """The task vectors times their factors.

        Args:
            task_vectors: [n, *shape], one row for each norm.
        """
        return task_vectors * per_row(task_vectors.new_tensor(self.factors), task_vectors)


def squared_norms(task_vectors: Float[Tensor, " n *shape"]) -> tuple[float, ...]:
    """‖τ_t‖² of one tensor, of every expert, in float64 and in a stated order of adding."""
    with np.errstate(over="ignore"):  # infinity is refused, with the expert's place
        return tuple(inner_product(row, row) for row in task_vectors)


def _sum(parts: Iterable[float]) -> float:
    try:
        return math.fsum(parts)
    except OverflowError:
        return math.inf
