"""The figures of steps: read from the device, checked, kept as curves."""

import math
from dataclasses import dataclass, field

from torch import Tensor

from merge_lib.errors import TrainingError
from merge_lib.workloads.training.config import TrainingConfig
from merge_lib.workloads.training.curves import Curves

UNREAD = 10  # steps on a GPU whose figures are read together: each reading waits for it
MOST_SKIPPED = 20  # steps in a row that fp16 may skip until its scale fits


@dataclass(frozen=True)
class Step:
    """One step; its figures are read from the device when they are asked for."""

    loss_on_device: Tensor
    norm_on_device: Tensor
    learning_rate: float

    @property
    def loss(self) -> float:
        """Mean over the batch's units."""
        return self.loss_on_device.item()

    @property
    def gradient_norm(self) -> float:
        """Before clipping; not finite where fp16 skipped the step."""
        return self.norm_on_device.item()


@dataclass
class Readings:
    """The steps of one training.

    Attributes:
        config: what messages name of it.
        total: steps that it is to have.
        at_once: steps whose figures are read together.
        curves: of the steps that were read.
        skipped: how many steps in a row fp16 has just skipped.
    """

    config: TrainingConfig
    total: int
    at_once: int = 1
    curves: Curves = field(default_factory=Curves)
    skipped: int = 0
    unread: list[Step] = field(default_factory=list)

    def add(self, step: Step) -> None:
        """One step more; the figures are read when there are enough."""
        self.unread.append(step)
        if len(self.unread) >= self.at_once:
            self.settle()

    def settle(self) -> None:
        """Read the figures of all steps so far.

        Raises:
            TrainingError: one of them is not finite.
        """
        unread, self.unread = self.unread, []
        for step in unread:
            loss, norm = step.loss, step.gradient_norm
            if not math.isfinite(loss):
                raise self._diverged("loss", loss)
            self.skipped = 0 if math.isfinite(norm) else self.skipped + 1
            if self.skipped > (MOST_SKIPPED if self.config.precision == "fp16" else 0):
                raise self._diverged("gradient", norm)
            self.curves.add(loss=loss, learning_rate=step.learning_rate, gradient_norm=norm)

    def _diverged(self, what: str, value: float) -> TrainingError:
        loss = self.curves.loss[-1] if self.curves.loss else None
        before = "" if loss is None else f" The loss before was {loss:.4g}."
        bf16 = " or take `precision: bf16`" if self.config.precision == "fp16" else ""
        return TrainingError(
            f"The {what} is {value} at step {len(self.curves.step) + 1} of {self.total}, but must be finite.{before} "
            f"The training diverged: lower `learning_rate` (now {self.config.learning_rate}) or `max_grad_norm` "
            f"({self.config.max_grad_norm}){bf16}."
        )
