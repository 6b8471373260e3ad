"""The three scenarios of continual learning, as one mapping from the base's logits to a task's outputs.

| scenario           | outputs                   | told which task | label                       |
|--------------------|---------------------------|-----------------|-----------------------------|
| task-incremental   | the classes of the task   | yes             | position within the task    |
| class-incremental  | the classes of all tasks  | no              | position among all classes  |
| domain-incremental | positions within any task | no              | position within the task    |

An output that stands for several classes (a position, in the domain-incremental scenario) has the
log-sum-exp of their logits, so that its softmax is the sum of theirs.
Reference: van de Ven, Tuytelaars, Tolias, "Three types of incremental learning", Nature Machine Intelligence
2022, table 1.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from merge_lib.workloads.vision.config import Scenario

ABSENT = -1e9  # added to the logit of a class that does not belong to an output


class ScenarioMap:
    """What a study's scenario asks on each of its tasks.

    Args:
        scenario: which of the three.
        tasks: for each task, the indices of its classes among the base's logits.
    """

    def __init__(self, scenario: Scenario, tasks: Sequence[Sequence[int]]) -> None:
        groups = [_groups(scenario, tasks, t) for t in range(len(tasks))]
        used = _all_classes(tasks)
        most = max(map(len, groups))
        self._used = torch.tensor(used)
        self._mask = torch.full((len(tasks), most, len(used)), ABSENT)  # [t, o, u]
        for t, outputs in enumerate(groups):
            for o, members in enumerate(outputs):
                self._mask[t, o, [used.index(member) for member in members]] = 0.0
        self.chance = tuple(1.0 / len(outputs) for outputs in groups)
        self._targets = [_targets(scenario, tasks, t) for t in range(len(tasks))]
        self._groups, self._own = groups, [frozenset(members) for members in tasks]

    def outputs(self, logits: Float[Tensor, "n c"], task: Int64[Tensor, " n"]) -> Float[Tensor, "n o"]:
        """The outputs of each example, given its logits and the index of its task."""
        used = logits[:, None, self._used.to(logits.device)]  # [n, 1, u]: only classes of the study cost time
        return torch.logsumexp(used + self._mask.to(logits.device)[task], dim=2)  # [n, o, u] -> [n, o]

    def targets(self, labels: Int64[Tensor, " n"], task: int) -> Int64[Tensor, " n"]:
        """The output that is right for each example of one task, given its label in the snapshot."""
        return torch.tensor(self._targets[task])[labels]

    def names(self, task: int, classes: Sequence[str]) -> tuple[str, ...]:
        """What each output of one task stands for: a class, the task's own one where there are several.

        Args:
            task: its index.
            classes: names of all classes of the base's head.
        """
        named = []
        for members in self._groups[task]:
            own = [member for member in members if member in self._own[task]] if len(members) > 1 else members
            named.append("/".join(classes[member] for member in own or members))
        return tuple(named)


def _groups(scenario: Scenario, tasks: Sequence[Sequence[int]], t: int) -> list[list[int]]:
    """For each output of task t, the classes it stands for."""
    if scenario == "task-incremental":
        return [[index] for index in tasks[t]]
    if scenario == "class-incremental":
        return [[index] for index in _all_classes(tasks)]
    positions = max(map(len, tasks))
    return [[task[position] for task in tasks if position < len(task)] for position in range(positions)]


def _targets(scenario: Scenario, tasks: Sequence[Sequence[int]], t: int) -> list[int]:
    """For each label of task t, the output that is right."""
    if scenario == "class-incremental":
        return [_all_classes(tasks).index(index) for index in tasks[t]]
    return list(range(len(tasks[t])))


def _all_classes(tasks: Sequence[Sequence[int]]) -> list[int]:
    """The classes of all tasks, each once, in order of appearance."""
    return list(dict.fromkeys(index for task in tasks for index in task))
