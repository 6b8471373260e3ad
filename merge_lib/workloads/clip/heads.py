"""Zero-shot heads: which texts stand for which class.

| scenario          | classes of a task's head | templates of a class                      |
|-------------------|--------------------------|-------------------------------------------|
| task-incremental  | its own                  | the task's                                |
| class-incremental | those of all tasks       | those of all tasks that have it, each once |

Legend: c classes, p texts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from merge_lib.workloads.clip.config import Scenario


@dataclass(frozen=True)
class Subject:
    """What texts say of one data set.

    Attributes:
        names: of its classes, as texts call them.
        templates: of the texts, each with {} for a name.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...]


@dataclass(frozen=True)
class Head:
    """The texts of some classes.

    Attributes:
        texts: of each class.
        names: of the classes.
    """

    names: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """All texts, each once."""
        return tuple(dict.fromkeys(text for of_class in self.texts for text in of_class))

    @cached_property
    def average(self) -> Float[Tensor, "c p"]:
        """Rows that take the mean of each class's texts."""
        places = {text: place for place, text in enumerate(self.prompts)}
        average = torch.zeros(len(self.texts), len(self.prompts))
        for row, of_class in enumerate(self.texts):
            average[row, [places[text] for text in of_class]] = 1.0 / len(of_class)
        return average


@dataclass(frozen=True)
class Targets:
    """Where a data set's classes stand in its head."""

    head: Head
    columns: Int64[Tensor, " c"]

    def of(self, labels: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
        """The output that is right for each label."""
        return self.columns[labels]


def own_head(subject: Subject, *, most: int | None = None) -> Targets:
    """The head of a data set by itself, of its first templates or of all."""
    templates = subject.templates[:most]
    texts = tuple(_texts(name, templates) for name in subject.names)
    return Targets(Head(subject.names, texts), torch.arange(len(subject.names)))


def heads_of(
    scenario: Scenario, subjects: Mapping[str, Subject], *, most: int | None = None
) -> dict[str, Targets]:
    """The head of each task.

    Args:
        scenario: of the study.
        subjects: of the tasks, in the order of the sequence.
        most: templates of a task that are used; None: all.
    """
    if scenario == "task-incremental":
        return {task: own_head(subject, most=most) for task, subject in subjects.items()}
    templates: dict[str, list[str]] = {}
    for subject in subjects.values():
        for name in subject.names:
            templates.setdefault(name, []).extend(subject.templates[:most])
    names = tuple(templates)
    head = Head(names, tuple(_texts(name, templates[name]) for name in names))
    return {
        task: Targets(head, torch.tensor([names.index(name) for name in subject.names]))
        for task, subject in subjects.items()
    }


def _texts(name: str, templates: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(template.format(name) for template in templates))
