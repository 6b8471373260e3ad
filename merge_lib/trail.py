"""What a method says it did to a tensor, while it does it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Trail:
    """Takes no notes; what methods are given where nobody asked for an audit."""

    def of(self, tensor: str) -> "Trail":  # noqa: ARG002 -- one that tells tensors apart needs it
        """Where one call of a method makes its notes: of the tensor, or of one step of it."""
        return self

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


@dataclass(frozen=True)
class TrailBook(Trail):
    """Keeps the notes of every tensor apart: a page for each call of the method, in order."""

    pages: dict[str, list[TakenTrail]] = field(default_factory=dict)

    def of(self, tensor: str) -> TakenTrail:
        """Begin a page."""
        page = TakenTrail()
        self.pages.setdefault(tensor, []).append(page)
        return page

    def take(self, tensor: str, count: int) -> list[TakenTrail]:
        """The last pages of a tensor, fewer where there are not so many; all of its pages go."""
        return self.pages.pop(tensor, [])[-count:]


NO_TRAIL = Trail()
