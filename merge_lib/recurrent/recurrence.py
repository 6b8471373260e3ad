"""How a task is learned in rounds, as plain validated values. Importing this loads no torch."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from merge_lib.types import Count, Fraction, Scale

Sensitivity = Literal["magnitude", "square", "second_order"]
Score = Literal["product", "mean"]
Decay = Annotated[float, Field(ge=0, lt=1)]
Temperature = Annotated[float, Field(gt=0, allow_inf_nan=False)]


CellWeights = tuple[Scale, Scale]


@dataclass(frozen=True)
class Cells:
    """(w_in, w_out) for each of the four kinds of entries.

    Attributes:
        shared: important to both learners.
        new: to the inner learner alone: new knowledge.
        historical: to the outer learner alone: knowledge of earlier tasks.
        redundant: to neither.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    shared: CellWeights
    new: CellWeights
    historical: CellWeights
    redundant: CellWeights


PRESETS = {
    "code": Cells(shared=(0.4, 0.6), new=(1.0, 0.0), historical=(0.0, 1.0), redundant=(0.5, 0.5)),
    "paper": Cells(shared=(1.0, 1.0), new=(1.0, 0.0), historical=(0.0, 1.0), redundant=(0.0, 0.0)),
}


@dataclass(frozen=True)
class RoundCount:
    """What becomes of the inner learner's steps of a task.

    Attributes:
        fusions: rounds that are finished.
        leftover: steps after the last fusion, which stay as they are.
        outer_steps: steps of the outer learner, over all rounds.
    """

    fusions: int
    leftover: int
    outer_steps: int


class Recurrence(BaseModel):
    """The settings of Recurrent-KIF; the defaults are the authors' code.

    Attributes:
        inner_steps: Q, of a round, on the task's own data.
        outer_steps: M, of a round, on the memory of earlier tasks.
        quantile: of the scores, above which an entry is important.
        sensitivity: what a step says of an entry; see `merge_lib.recurrent.importance.sensitivity`.
        decay: β₁, of the mean sensitivity.
        uncertainty_decay: β₂, of its uncertainty.
        score: mean times uncertainty, or the mean alone.
        weights: of the fusion: a preset's cells, cells of one's own, or "soft" ones.
        temperature: of soft weights alone; the default is ours.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    inner_steps: Count = 8
    outer_steps: Count = 4
    quantile: Fraction = 0.8
    sensitivity: Sensitivity = "magnitude"
    decay: Decay = 0.85
    uncertainty_decay: Decay = 0.85
    score: Score = "product"
    weights: Literal["code", "paper", "soft"] | Cells = "code"
    temperature: Temperature = 1.0

    @property
    def cells(self) -> Cells | None:
        """The table of the fusion; None where the weights are soft."""
        if isinstance(self.weights, Cells):
            return self.weights
        return PRESETS.get(self.weights)

    def count_rounds(self, steps: int) -> RoundCount:
        """How many fusions a task has, and how many steps stay unfused.

        Args:
            steps: of the inner learner, over the whole task.
        """
        fusions, leftover = divmod(steps, self.inner_steps)
        return RoundCount(fusions, leftover, fusions * self.outer_steps)


CODE = Recurrence()
PAPER = Recurrence(decay=0.55, score="mean", weights="paper")
