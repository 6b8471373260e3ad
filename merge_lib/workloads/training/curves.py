"""What was seen of a training step by step. Importing this loads no torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

POINTS = 64  # of a curve that is kept


@dataclass
class Curves:
    """Lists of one length: a value for each step, or for each group of steps that was joined.

    Attributes:
        step: counted from 1.
        loss: of training; of joined steps the mean.
        learning_rate: that the step was made with.
        gradient_norm: before clipping; of joined steps the largest. Not finite where fp16 skipped the step.
    """

    step: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)

    def add(self, *, loss: float, learning_rate: float, gradient_norm: float) -> None:
        """One step more."""
        self.step.append(len(self.step) + 1)
        self.loss.append(loss)
        self.learning_rate.append(learning_rate)
        self.gradient_norm.append(gradient_norm)

    def joined(self, most: int = POINTS) -> "Curves":
        """The same with at most so many points, the last step among them; all of them finite."""
        width = math.ceil(len(self.step) / most) if self.step else 1
        ends = range(len(self.step), 0, -width)
        spans = [slice(max(end - width, 0), end) for end in reversed(ends)]
        return Curves(
            [self.step[span][-1] for span in spans],
            [math.fsum(self.loss[span]) / len(self.loss[span]) for span in spans],
            [self.learning_rate[span][-1] for span in spans],
            [_largest(self.gradient_norm[span]) for span in spans],
        )


def _largest(values: Sequence[float]) -> float:
    """Of those that are finite; 0 if none is, for then no step was made."""
    return max((value for value in values if math.isfinite(value)), default=0.0)
