"""Sequential fine-tuning: every task from where the one before it ended, and nothing else."""

from typing import ClassVar

from merge_lib.workloads.learners.settings import LearnerSettings


class Sequential(LearnerSettings):
    """One model trained on task after task; what the others are to forget less than.

    Its checkpoints are the experts of regime `sequential`, and are trained once for both.
    """

    name: ClassVar[str] = "sequential"
    title: ClassVar[str] = "Sequential fine-tuning"

    def is_ordinary(self, place: int) -> bool:  # noqa: ARG002 -- every one is
        """Always."""
        return True
