"""The learning rate along a training: a linear rise, then a fall."""

import math
from dataclasses import dataclass

from merge_lib.workloads.training.config import TrainingConfig


@dataclass(frozen=True)
class Schedule:
    """Learning rate of each step, counted from 0.

    Attributes:
        config: learning rate, warm-up and shape.
        total: steps in all; later ones have the last one's rate.
    """

    config: TrainingConfig
    total: int

    def rate(self, step: int) -> float:
        """The learning rate that a step is made with."""
        return self.config.learning_rate * self.factor(step)

    def factor(self, step: int) -> float:
        """Rises to 1 over the warm-up, then stays, or falls to 0 along a line or a cosine."""
        rise = max(1, round(self.total * self.config.warmup))
        if step < rise:
            return (step + 1) / rise
        if self.config.schedule == "constant":
            return 1.0
        at, span = min(step, self.total) - rise, max(1, self.total - rise)
        if self.config.schedule == "linear":
            return 1.0 - at / span
        return 0.5 * (1.0 + math.cos(math.pi * at / span))
