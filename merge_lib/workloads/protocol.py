"""What the flow asks of a workload: training from path to path, and the evaluation of a state dict."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from merge_lib.probe import Probe, Split
from merge_lib.types import StateDict
from merge_lib.workloads.training.curves import Curves

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all) every few steps; an exception raised in it stops the training."""


@dataclass(frozen=True)
class TrainReport:
    """A checkpoint that was just trained, and how its training went."""

    path: Path
    digest: str
    size_bytes: int
    elapsed_s: float
    steps: int
    losses: list[float]  # mean training loss of each epoch
    validation_accuracy: float  # mean over the tasks trained on, in [0, 1]
    curves: Curves = field(default_factory=Curves)  # steps joined to a few points
    micro_batch: int | None = None  # examples on the device at once in the end; None: the whole batch
    stopped_early: bool = False
    resumed_at: int = 0  # the step that a killed training went on after
    taught: dict[str, Any] | None = None  # fields of `merge_lib.results.Taught`, where a learner trained it
    fusions: list[dict[str, float]] = field(default_factory=list)  # figures of each, of Recurrent-KIF


@runtime_checkable
class Probing(Protocol):
    """A workload that merging methods may show inputs to; without it, methods that need data are refused."""

    def probe(self) -> Probe:
        """Its model, inputs and logits."""
        ...


@runtime_checkable
class Measuring(Protocol):
    """A workload that measures more of a model than its accuracy on each task."""

    @property
    def probes(self) -> tuple[str, ...]:
        """Names of the further measurements; none is the name of a task."""
        ...

    def evaluate(
        self, tensors: StateDict, tasks: Sequence[str], *, split: Split = "test"
    ) -> dict[str, float]:
        """As `Workload.evaluate`, where the names may be those of probes, too; each value in [0, 1]."""
        ...


@runtime_checkable
class Workload(Protocol):
    """Something that can be pre-trained, fine-tuned on tasks and evaluated on tasks."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task names, in the order of the task sequence."""
        ...

    @property
    def chance(self) -> tuple[float, ...]:
        """Accuracy of guessing on each task, in the chosen scenario."""
        ...

    def pretrain(
        self,
        out: Path,
        *,
        seed: int,
        lineage: dict[str, Any],
        progress: Progress | None = None,
        partial: Path | None = None,
    ) -> TrainReport:
        """Train the base from random weights and write it to `out`; `partial` as in `fine_tune`."""
        ...

    def fine_tune(
        self,
        start: Path,
        tasks: Sequence[str],
        out: Path,
        *,
        seed: int,
        lineage: dict[str, Any],
        progress: Progress | None = None,
        partial: Path | None = None,
    ) -> TrainReport:
        """Train `start` on the tasks together (one task: an expert; several: joint training).

        Args:
            start: the checkpoint to begin with.
            tasks: names of the task sequence.
            out: the trained checkpoint's file.
            seed: of all draws.
            lineage: JSON values for the file.
            progress: told how far it is.
            partial: a folder of this training's own, for saves to go on from after a kill; the caller removes it.
        """
        ...

    def evaluate(
        self, tensors: StateDict, tasks: Sequence[str], *, split: Split = "test"
    ) -> dict[str, float]:
        """Accuracy in [0, 1] of a model on each of the tasks.

        Args:
            tensors: all that the model's checkpoint holds, by name; not to be written to. They may never have been a
                file.
            tasks: names of the task sequence.
            split: of each task's snapshot.
        """
        ...
