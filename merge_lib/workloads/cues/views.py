"""How examples are shown: with which cue, and which class counts as the answer. Of images and of texts alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from merge_lib.workloads.cues.banks import generator_of


@dataclass(frozen=True, eq=False)
class View:
    """One way to show the examples.

    Attributes:
        cue: what is added; None: nothing.
        is_conflict: the cue shows a wrong class, and answering that class counts, not the right one.
    """

    cue: Any
    is_conflict: bool = False

    def wanted(self, labels: Int64[Tensor, " n"], classes: int, seed: int) -> Int64[Tensor, " n"]:
        """The class that counts as the answer for each example, which is the one that its cue shows."""
        if not self.is_conflict:
            return labels
        steps = torch.randint(1, classes, labels.shape, generator=generator_of(seed, "conflict"))
        return (labels + steps) % classes


def views_of(cues: Mapping[str, Any], common: Any, *, is_all_shared: bool) -> dict[str, View]:
    """Tasks and probes by name.

    Args:
        cues: of the tasks, each one's own.
        common: the cue that all tasks share; None: there is none.
        is_all_shared: no task's examples carry its own cue, so its accuracy is that with the shared one.
    """
    own = {task: View(cue) for task, cue in cues.items()}
    conflicts = {task: View(cue, is_conflict=True) for task, cue in cues.items()}
    views = {"clean": View(None)}
    if common is not None:
        views["shared"] = View(common)
    if is_all_shared:
        conflict = View(common, is_conflict=True)
        views |= {f"own-{task}": view for task, view in own.items() if view.cue is not common}
        own, conflicts = dict.fromkeys(cues, views["shared"]), dict.fromkeys(cues, conflict)
    return own | views | {f"conflict-{task}": view for task, view in conflicts.items()}
