"""A vision transformer and the images of all tasks, as learners are given them."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from merge_lib.recurrent.replay import ReplayItem
from merge_lib.types import StateDict
from merge_lib.workloads.training.parameters import trainable_parameters
from merge_lib.workloads.training.stopping import Validate
from merge_lib.workloads.vision.config import FineTuningConfig
from merge_lib.workloads.vision.data import Snapshot
from merge_lib.workloads.vision.lessons import ImageLesson, Outputs, TrainingSet, lesson_of
from merge_lib.workloads.vision.model import ViT

LABEL_BYTES = 1  # of an example in memory: fewer than 256 classes; the rest is its picture


class VisionClassroom:
    """All weights are trained, but for those that `freeze` names.

    Args:
        model: to be trained.
        config: of training.
        snapshots: of every task.
        examples: training and validation images of a task, by the task and the split.
        outputs: that the loss is over.
        accuracy: of a model on the validation images of a task.
    """

    def __init__(
        self,
        model: ViT,
        config: FineTuningConfig,
        *,
        snapshots: Mapping[str, Snapshot],
        examples: Callable[[str, str], TrainingSet],
        outputs: Outputs,
        accuracy: Callable[[ViT, str], float],
    ) -> None:
        self.model, self.config = model, config
        self.trained: dict[str, nn.Parameter] = trainable_parameters(model, config.freeze)
        self._snapshots, self._examples = snapshots, examples
        self._outputs, self._accuracy = outputs, accuracy

    def labels(self, task: str) -> Sequence[int]:
        """The class of each training image of a task."""
        return self._snapshots[task].splits["train"].labels.tolist()

    def lesson(self, items: Sequence[ReplayItem]) -> ImageLesson:
        """These training images, in this order."""
        tasks = list(dict.fromkeys(item.task for item in items))
        sets = {task: self._examples(task, "train") for task in tasks}
        starts, size = {}, 0
        for task, examples in sets.items():
            starts[task], size = size, size + len(examples.targets)
        rows = torch.tensor([starts[item.task] + item.index for item in items])
        whole = TrainingSet(
            *(
                torch.cat([getattr(one, name) for one in sets.values()])[rows]
                for name in ("images", "targets", "task")
            )
        )
        return lesson_of(whole, self.config, outputs=self._outputs)

    def held_out(self, task: str, count: int) -> ImageLesson:
        """So many validation images of a task, evenly spread over all, unmoved."""
        found = self._examples(task, "validation")
        size = min(count, len(found.targets))
        rows = torch.arange(size) * len(found.targets) // size
        some = TrainingSet(found.images[rows], found.targets[rows], found.task[rows])
        return ImageLesson(some, self._outputs, label_smoothing=self.config.label_smoothing)

    def size_of(self, items: Sequence[ReplayItem]) -> int:
        """Bytes of these images and their labels, as snapshots hold them."""
        images = {task: snapshot.splits["train"].images for task, snapshot in self._snapshots.items()}
        return sum(images[item.task][item.index].nbytes + LABEL_BYTES for item in items)

    def validate(self, task: str) -> Validate:
        """Accuracy on the validation images of a task."""
        return lambda model: self._accuracy(model, task)

    def tensors(self) -> StateDict:
        """All of the model's."""
        return self.model.state_dict()
