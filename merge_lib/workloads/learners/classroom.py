"""What a learner is given to teach: a model, the examples of all tasks, and what is written in the end."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import nn

from merge_lib.recurrent import FusionReport, ReplayItem, select_memory
from merge_lib.types import StateDict
from merge_lib.workloads.learners.settings import MemorySettings
from merge_lib.workloads.protocol import Progress
from merge_lib.workloads.training.config import TrainingConfig
from merge_lib.workloads.training.lessons import Lesson
from merge_lib.workloads.training.loop import Trained
from merge_lib.workloads.training.stopping import Validate


@runtime_checkable
class Classroom(Protocol):
    """A model that is ready to be trained, and what there is to learn; examples are named by task and place."""

    @property
    def model(self) -> nn.Module:
        """Trained in place."""
        ...

    @property
    def trained(self) -> Mapping[str, nn.Parameter]:
        """The parameters that change, by name."""
        ...

    @property
    def config(self) -> TrainingConfig:
        """How experts are trained, and learners, too."""
        ...

    def labels(self, task: str) -> Sequence[Hashable]:
        """The class of each training example of a task."""
        ...

    def lesson(self, items: Sequence[ReplayItem]) -> Lesson:
        """These training examples, in this order; they may be of several tasks."""
        ...

    def held_out(self, task: str, count: int) -> Lesson:
        """So many development examples of a task, evenly spread, never augmented; all if there are fewer."""
        ...

    def size_of(self, items: Sequence[ReplayItem]) -> int:
        """Bytes of these training examples, as they are stored."""
        ...

    def validate(self, task: str) -> Validate:
        """Accuracy on the development examples of a task; for the report, and for early stopping."""
        ...

    def tensors(self) -> StateDict:
        """What a checkpoint of the model holds."""
        ...


@runtime_checkable
class Adapted(Protocol):
    """A classroom whose model has low-rank adapters, fresh ones on the weights of the start."""

    @property
    def downs(self) -> Mapping[str, nn.Parameter]:
        """A of each adapted matrix, [rank, in], by the matrix's name."""
        ...

    def matrices(self, checkpoint: Path) -> StateDict:
        """The adapted matrices of a checkpoint, adapters folded in, [out, in], by name."""
        ...


@runtime_checkable
class Teaching(Protocol):
    """A workload whose models learners can train."""

    def classroom(self, start: Path, *, seed: int, is_product: bool = False) -> Classroom:
        """A room with the model of a checkpoint.

        Args:
            start: the checkpoint.
            seed: of what a fresh adapter begins with.
            is_product: fold the start's adapters into its weights, train fresh ones, and write adapted matrices whole.
        """
        ...


@dataclass(frozen=True)
class Course:
    """One task of a sequence, as a learner learns it.

    Attributes:
        task: that is learned.
        before: the tasks that were learned already.
        checkpoints: from the base on: before the first of them, after the first, …; the last is where this one starts.
            Of a learner that does not look back the last alone.
        seed: of all draws.
        saved: folder for saves on the way, from which a killed training goes on; None: there are none.
        progress: is told the steps.
    """

    task: str
    before: tuple[str, ...]
    checkpoints: tuple[Path, ...]
    seed: int
    saved: Path | None = None
    progress: Progress | None = None

    def own(self, room: Classroom) -> tuple[ReplayItem, ...]:
        """All training examples of the task."""
        return tuple(ReplayItem(self.task, place) for place in range(len(room.labels(self.task))))

    def memory(self, room: Classroom, settings: MemorySettings) -> tuple[ReplayItem, ...]:
        """The examples of the earlier tasks that were kept."""
        labels = {task: room.labels(task) for task in self.before}
        return select_memory(labels, share=settings.share, seed=settings.memory_seed)


@dataclass(frozen=True)
class Learned:
    """How a course went.

    Attributes:
        trained: how the training went.
        memory: the examples of earlier tasks that it was shown.
        fusions: of Recurrent-KIF, in their order.
    """

    trained: Trained
    memory: tuple[ReplayItem, ...] = ()
    fusions: tuple[FusionReport, ...] = ()
