"""The order in which a training sees its examples."""

import torch
from jaxtyping import Int64
from torch import Tensor


class Order:
    """Rows of one batch after another: every epoch a fresh order, the last batch of an epoch maybe smaller."""

    def __init__(self, size: int, batch_size: int, generator: torch.Generator) -> None:
        self._size, self._batch_size, self._generator = size, batch_size, generator
        self._rows, self._at = torch.empty(0, dtype=torch.int64), 0

    def take(self) -> Int64[Tensor, " b"]:
        """The rows of the next batch."""
        if self._at >= len(self._rows):
            self._rows, self._at = torch.randperm(self._size, generator=self._generator), 0
        taken = self._rows[self._at : self._at + self._batch_size]
        self._at += len(taken)
        return taken

    def state_dict(self) -> dict[str, Tensor]:
        """The order of this epoch, and how far it has come."""
        return {"rows": self._rows, "at": torch.tensor(self._at)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from there."""
        self._rows, self._at = state["rows"], int(state["at"])
