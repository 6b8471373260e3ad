"""Recurrent-KIF: a task is learned in rounds of two learners, whose changes are fused by their importance."""

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from merge_lib.recurrent.recurrence import CODE, PAPER, Recurrence
from merge_lib.types import Count, Natural
from merge_lib.workloads.learners.settings import MemorySettings

PRESETS = {"code": CODE, "paper": PAPER}


class RecurrentKif(Recurrence, MemorySettings):
    """Q steps on the task, M on the memory of earlier ones, then a fusion of what both changed, again and again.

    One AdamW serves both learners, and keeps its moments across fusions; gradients are clipped; importance is read
    from the parameters after a step; the learning rate's schedule counts inner steps only; steps after the last whole
    round stay as they are. See `merge_lib.recurrent` for formulas and variants.

    Differs from the paper: nothing in the numbers; the development loss that selects a checkpoint is looked at after
        the last step, too.
    Reference: Feng et al., "Recurrent Knowledge Identification and Fusion for Language Model Continual Learning",
        ACL 2025, arXiv:2502.17510.

    Attributes:
        preset: where settings of the rounds are from that are not given: the authors' code or the paper's text.
        outer_batch: examples of an outer step; 0: as many as of an inner one.
        select_every: inner steps between looks at the development loss of all tasks seen, after which the best is
            kept; 0: the last parameters are kept, and no development example is looked at.
        select_examples: development examples of each task.
    """

    name: ClassVar[str] = "recurrent_kif"
    title: ClassVar[str] = "Recurrent-KIF"
    paper: ClassVar[str] = "https://arxiv.org/abs/2502.17510"
    module: ClassVar[str] = "merge_lib.workloads.learners.rounds"

    preset: Literal["code", "paper"] = "code"
    outer_batch: Natural = 0
    select_every: Natural = 40
    select_examples: Count = 25

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("preset", "code") not in PRESETS:
            return given
        return {**PRESETS[given.get("preset", "code")].model_dump(), **given}

    @property
    def recurrence(self) -> Recurrence:
        """The settings of the rounds alone."""
        return Recurrence(**{name: getattr(self, name) for name in Recurrence.model_fields})

    @property
    def held_out(self) -> int:
        """Development examples of every task seen so far that it looks at."""
        return self.select_examples if self.select_every else 0
