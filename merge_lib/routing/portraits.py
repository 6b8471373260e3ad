"""What a sequence keeps of its tasks beside the state: names, texts and prototypes, as one file that grows.

The tensors of the file are called after the tasks; all else is in its lineage. Reading it runs no code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from jaxtyping import Float
from torch import Tensor

from merge_lib.checkpoints import CheckpointReader, WrittenCheckpoint, write_state_dict
from merge_lib.errors import CheckpointError, CheckpointMismatchError

KIND, FORMAT = "prototypes", 1


@dataclass(frozen=True)
class Portrait:
    """One task.

    Attributes:
        task: its name.
        names: of its classes.
        texts: of each class.
        prototypes: [c, d], of length 1.
    """

    task: str
    names: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    prototypes: Float[Tensor, "c d"]


@dataclass(frozen=True)
class Portraits:
    """The tasks of a sequence, in order.

    Attributes:
        base: digest of the base that sees them.
        workload: the settings that a model answers with, as plain values.
        tasks: those that were seen.
    """

    base: str
    workload: Mapping[str, Any]
    tasks: tuple[Portrait, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tasks."""
        return tuple(portrait.task for portrait in self.tasks)

    @property
    def size_bytes(self) -> int:
        """Of the prototypes."""
        return sum(one.prototypes.numel() * one.prototypes.itemsize for one in self.tasks)

    def with_task(self, portrait: Portrait) -> "Portraits":
        """One more task.

        Raises:
            CheckpointMismatchError: it is there already.
        """
        if portrait.task in self.names:
            raise CheckpointMismatchError(
                f"Task '{portrait.task}' is there already; known: {', '.join(self.names)}. Each stands once, in the "
                "order in which the experts were folded in."
            )
        return Portraits(self.base, self.workload, (*self.tasks, portrait))

    def save(self, path: Path) -> WrittenCheckpoint:
        """Write the file; an existing one is replaced once the new one is whole."""
        told = [{"task": one.task, "names": one.names, "texts": one.texts} for one in self.tasks]
        lineage = {"kind": KIND, "format": FORMAT, "base": self.base, "tasks": told}
        rows = {one.task: one.prototypes.contiguous() for one in self.tasks}
        return write_state_dict(path, rows, lineage={**lineage, "workload": dict(self.workload)})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            CheckpointError: there is no such file, it is damaged, or it holds something else.
        """
        with CheckpointReader(path) as reader:
            told = reader.lineage
            if (told.get("kind"), told.get("format")) != (KIND, FORMAT):
                raise CheckpointError(
                    f"{path} holds no prototypes of format {FORMAT}: it says that it is "
                    f"{told.get('kind', 'nothing')!r} of format {told.get('format')!r}. Give the file that "
                    "`Portraits.save` wrote."
                )
            portraits = tuple(
                Portrait(
                    one["task"],
                    tuple(one["names"]),
                    tuple(map(tuple, one["texts"])),
                    reader.tensor(one["task"]),
                )
                for one in told["tasks"]
            )
        return cls(told["base"], told["workload"], portraits)


def classes_of(portraits: Sequence[Portrait]) -> dict[str, tuple[str, ...]]:
    """The classes of several tasks with their texts; of those with one name all texts, each once."""
    texts: dict[str, tuple[str, ...]] = {}
    for portrait in portraits:
        for name, own in zip(portrait.names, portrait.texts, strict=True):
            texts[name] = tuple(dict.fromkeys((*texts.get(name, ()), *own)))
    return texts
