"""Replay alone: examples of earlier tasks are mixed into every batch."""

from typing import ClassVar

from merge_lib.types import Positive
from merge_lib.workloads.learners.settings import MemorySettings


class Replay(MemorySettings):
    """Every batch has examples of the task, and some from the memory of the earlier ones.

    L = (Σ over the b examples of the task + Σ over the ⌈mix·b⌉ from memory) / (b + ⌈mix·b⌉), with the workload's own
    unit of the mean (an image, a target token). A batch's examples from memory are drawn without repeats, unless the
    memory is smaller.

    Variant: the memory is that of Recurrent-KIF, class-balanced and fixed when its task ends, so that both can be
        compared at equal memory; with `mix` 0.5 both see as many replayed examples as well (M/Q of it).
    Reference: Chaudhry et al., "On Tiny Episodic Memories in Continual Learning", 2019, arXiv:1902.10486.

    Attributes:
        mix: examples from memory for each example of the task.
    """

    name: ClassVar[str] = "replay"
    title: ClassVar[str] = "Experience replay"
    paper: ClassVar[str] = "https://arxiv.org/abs/1902.10486"
    module: ClassVar[str] = "merge_lib.workloads.learners.mixing"

    mix: Positive = 0.5
