"""The words of cues, one a class: capital letters, different in all tasks and classes; drawn once from a seed."""

from dataclasses import dataclass
from itertools import product
from string import ascii_uppercase

import torch
from jaxtyping import Int64
from torch import Tensor

from merge_lib.workloads.cues.banks import generator_of
from merge_lib.workloads.cues.places import MOST
from merge_lib.workloads.text_cues.config import FAMILIES

PLACES = len(FAMILIES) * MOST + 1  # lists of words: of every cue there can be, and of one that tasks share
SHARED = PLACES - 1


@dataclass(frozen=True)
class TextCue:
    """A word for each class, and where it is put.

    Attributes:
        words: one a class.
        at_front: before the text, rather than behind it.
    """

    words: tuple[str, ...]
    at_front: bool

    def write(self, text: str, shown: int) -> str:
        """The text with the word of a class."""
        word = self.words[shown]
        return f"{word} {text}" if self.at_front else f"{text} {word}"

    def permuted(self, generator: torch.Generator) -> "TextCue":
        """The same words at the same place, each for another class than before."""
        order = torch.randperm(len(self.words), generator=generator)
        other: Int64[Tensor, " c"] = torch.empty_like(order)
        other[order] = order.roll(1)
        return TextCue(tuple(self.words[at] for at in other.tolist()), self.at_front)


def words_at(place: int, classes: int, seed: int) -> tuple[str, ...]:
    """The words of the cue with that place: as short as lets all cues have different ones."""
    length = next(n for n in range(2, 9) if len(ascii_uppercase) ** n >= PLACES * classes)
    every = ["".join(letters) for letters in product(ascii_uppercase, repeat=length)]
    order = torch.randperm(len(every), generator=generator_of(seed, "words"))
    return tuple(every[at] for at in order[place * classes : (place + 1) * classes].tolist())
