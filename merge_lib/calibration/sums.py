"""What is kept of the rows that flow into one layer, while they do."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.registry import Observation

Rows = Float[Tensor, "rows width"]


class Sum(Protocol):
    """What a layer's rows come to."""

    def add(self, rows: Rows) -> None:
        """Take rows."""

    def close(self) -> tuple[Tensor, int] | None:
        """What is written, in float32, and of how many rows it is; None where none came."""


def begin_sum(kind: Observation, *, is_scale: bool, rows: int | None) -> Sum:
    """Nothing yet.

    Args:
        kind: "features" or "gram".
        is_scale: whether the rows are multiplied entry by entry.
        rows: features that are kept at most; None keeps all.
    """
    if kind == "features":
        return KeptRows(rows)
    return Mean(_squares if is_scale else _products)


@dataclass
class KeptRows:
    """The rows themselves, or some of them at even distances."""

    most: int | None
    kept: list[Tensor] = field(default_factory=list)

    def add(self, rows: Rows) -> None:
        """Keep all of them for now."""
        if len(rows):
            self.kept.append(rows.float().clone())

    def close(self) -> tuple[Tensor, int] | None:
        """The rows, [n, width]."""
        if not self.kept:
            return None
        rows = torch.cat(self.kept)
        if self.most is not None and len(rows) > self.most:
            rows = rows[torch.arange(self.most) * len(rows) // self.most]
        return rows, len(rows)


@dataclass
class Mean:
    """The mean of something over the rows, summed in float64."""

    sum_of: Callable[[Tensor], Tensor]
    total: Tensor | None = None
    count: int = 0

    def add(self, rows: Rows) -> None:
        """Add theirs."""
        found = self.sum_of(rows.double())
        self.total = found if self.total is None else self.total.add_(found)
        self.count += len(rows)

    def close(self) -> tuple[Tensor, int] | None:
        """The mean."""
        if self.total is None or self.count == 0:
            return None  # the layer was never called, or with padding alone
        return (self.total / self.count).float(), self.count


def _products(rows: Tensor) -> Tensor:
    """Σ x·xᵀ, [width, width]."""
    return rows.T @ rows


def _squares(rows: Tensor) -> Tensor:
    """Σ of each column's squares, [width]."""
    return rows.square().sum(0)
