"""What a learner declares of itself, and the learners by name."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from merge_lib.errors import SpecError, UnknownMethodError, suggest
from merge_lib.types import Share

_KNOWN: dict[str, type["LearnerSettings"]] = {}


class LearnerSettings(BaseModel):
    """Base of all learners: the fields of a subclass are its parameters, its `name` is what studies call it.

    Attributes:
        name: what studies call it.
        title: what it is, in a few words.
        paper: link to the paper that it is from; empty where there is none.
        module: where its `learn(room, course, settings)` is, which imports torch; empty where every task is ordinary.
        replays: it keeps training examples of earlier tasks.
        needs_adapters: it can be done with low-rank adapters only.
        looks_back: it asks for the checkpoint of every earlier task, not of the last alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str] = ""
    module: ClassVar[str] = ""
    replays: ClassVar[bool] = False
    needs_adapters: ClassVar[bool] = False
    looks_back: ClassVar[bool] = False

    @classmethod
    def __pydantic_init_subclass__(cls, **_: object) -> None:
        """Register a subclass that has a name."""
        name = vars(cls).get("name")
        if name is None:
            return
        if (other := _KNOWN.get(name)) is not None and other.__qualname__ != cls.__qualname__:
            raise SpecError(f"Two learners are named '{name}': {other.__qualname__} and {cls.__qualname__}.")
        _KNOWN[name] = cls

    @property
    def held_out(self) -> int:
        """Development examples of every task seen so far that it looks at while it trains: extra supervision."""
        return 0

    def is_ordinary(self, place: int) -> bool:
        """Whether the task at that place of the sequence, from 0, is trained as any expert is."""
        return place == 0

    def code(self) -> tuple[str, ...]:
        """The modules whose source can change what it learns."""
        return (type(self).__module__, self.module, f"{__package__}.teaching")


class MemorySettings(LearnerSettings):
    """Base of the learners with a memory of examples, as many of each class as can be.

    Attributes:
        share: of each earlier task's training examples that is kept.
        memory_seed: of which these are.
    """

    replays: ClassVar[bool] = True

    share: Share = 0.02
    memory_seed: int = 42


def names() -> tuple[str, ...]:
    """What studies may call a learner."""
    return tuple(sorted(_KNOWN))


def get(name: str) -> type[LearnerSettings]:
    """The learner of that name.

    Raises:
        UnknownMethodError: there is none.
    """
    if name not in _KNOWN:
        raise UnknownMethodError(f"there is no learner '{name}': {suggest(name, _KNOWN)}")
    return _KNOWN[name]
