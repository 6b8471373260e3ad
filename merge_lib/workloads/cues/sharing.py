"""What studies of cues say of what their tasks share, of images and of texts alike."""

from collections.abc import Sequence

from pydantic import BaseModel, Field

from merge_lib.workloads.training.config import Positive, Share


class Sharing(BaseModel):
    """Which cues tasks have in common, and how they differ beside their cues."""

    shared: Share = 0.0  # share of each task's training examples that carry a cue common to all tasks
    label_noise: dict[str, Share] = Field(
        default_factory=dict
    )  # task -> share of its training labels that are wrong
    contradicts: dict[str, str] = Field(
        default_factory=dict
    )  # task -> the one whose cue it has, for other classes
    strength: dict[str, Positive] = Field(
        default_factory=dict
    )  # task -> factor on its expert's learning rate

    @property
    def has_both(self) -> bool:
        """Whether tasks have cues of their own beside one that they share."""
        return 0.0 < self.shared < 1.0

    def sharing_faults(self, tasks: Sequence[str]) -> list[str]:
        """What of these settings does not fit the task sequence."""
        return [*self._strangers(tasks), *self._contradictions()]

    def _strangers(self, tasks: Sequence[str]) -> list[str]:
        """Tasks in the settings that the study does not have."""
        named = {
            "label_noise": [*self.label_noise],
            "contradicts": [*self.contradicts, *self.contradicts.values()],
            "strength": [*self.strength],
        }
        return [
            f"`{key}` names '{task}', which is not in the task sequence"
            for key, found in named.items()
            for task in dict.fromkeys(found)
            if task not in tasks
        ]

    def _contradictions(self) -> list[str]:
        """What is wrong with `contradicts`."""
        faults = [
            f"`contradicts` lets '{task}' contradict '{other}', which has no cue of its own; name another"
            for task, other in self.contradicts.items()
            if other in self.contradicts
        ]
        if self.contradicts and self.shared == 1.0:
            faults.append(
                "`contradicts` needs cues of the tasks' own, which `shared: 1` leaves out; lower it"
            )
        return faults
