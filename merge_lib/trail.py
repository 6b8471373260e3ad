"""What a method says it did to a tensor, while it does it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Trail:
    """Takes no notes; what methods are given where nobody asked for an audit."""

    def note(self, quantity: str, values: "Callable[[], Tensor]") -> None:
        """Say a quantity of the tensor at hand.

        Args:
            quantity: what it is, in a few words, such as "share kept".
            values: computes it, only if somebody listens: [n] for one value an expert, [] for one of the tensor.
        """


@dataclass(frozen=True)
class TakenTrail(Trail):
    """Keeps the notes of one tensor: for each quantity a number an expert, or a single one."""

    notes: dict[str, list[float]] = field(default_factory=dict)

    def note(self, quantity: str, values: "Callable[[], Tensor]") -> None:
        """Keep it as float64."""
        self.notes[quantity] = values().double().reshape(-1).tolist()


NO_TRAIL = Trail()
