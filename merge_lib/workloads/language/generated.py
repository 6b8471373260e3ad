"""Generated tasks of text: strings of letters to copy, turn round, sort or count, and made-up words to classify.

A text to classify is made of words that every such task shares, a bank of them for each class, and of words of its own
task's that tell the class for sure. Everything is drawn from a seed; needs numpy only.
"""

from collections.abc import Callable, Iterator
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from merge_lib.errors import DataError
from merge_lib.types import Count
from merge_lib.workloads.language.snapshots import Example

Kind = Literal["copy", "reverse", "sort", "count", "first", "largest", "words"]
NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
BANK = 8  # words of a class
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
TRIES = 50  # for every text that is wanted, before the task is found too small

Chance = Annotated[float, Field(ge=0.0, le=1.0)]
Answer = Callable[[str], str]


def _count(text: str) -> str:
    return NUMBERS[text.count("a")]


SKILLS: dict[Kind, Answer] = {
    "copy": lambda text: text,
    "reverse": lambda text: text[::-1],
    "sort": lambda text: "".join(sorted(text)),
    "count": _count,  # how many a's
    "first": lambda text: text[0],
    "largest": max,  # the letter that comes last in the alphabet
}


class Strings(BaseModel):
    """Which strings of letters: from `shortest` to `longest`, of the first `letters` of the alphabet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    letters: Annotated[int, Field(ge=2, le=len(LETTERS))] = 8
    shortest: Count = 3
    longest: Annotated[int, Field(ge=1, lt=len(NUMBERS))] = 5

    @model_validator(mode="after")
    def _has_lengths(self) -> "Strings":
        if self.shortest > self.longest:
            msg = f"shortest {self.shortest} is more than longest {self.longest}; swap or change them"
            raise ValueError(msg)
        return self

    def draw(self, rng: np.random.Generator, kind: Kind = "copy") -> str:
        """One of them; to be counted or compared, such that every answer is about as frequent."""
        length = int(rng.integers(self.shortest, self.longest + 1))
        letters = rng.integers(0, self.letters, length)
        if kind == "count":
            letters = rng.integers(1, self.letters, length)
            letters[rng.permutation(length)[: rng.integers(length + 1)]] = 0
        if kind == "largest":
            most = int(rng.integers(self.letters))
            letters = rng.integers(0, most + 1, length)
            letters[rng.integers(length)] = most
        return "".join(LETTERS[at] for at in letters)


class Words(BaseModel):
    """Which texts of words; those of class k are in bank k of `banks`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    length: Count = 4  # words of a text
    shared: Chance = 0.7  # of each word to be of its class's bank; others are of any bank
    own: Chance = 0.6  # of a text to have a word in it that is its task's own for this class


def examples_of(
    kind: Kind, name: str, *, count: int, seed: int, strings: Strings, words: Words, labels: tuple[str, ...]
) -> list[Example]:
    """Distinct examples of a task, drawn with a seed.

    Args:
        kind: of the task.
        name: of the task, which decides its own words.
        count: how many.
        seed: of the draws.
        strings: for all kinds but "words".
        words: for the kind "words".
        labels: for the kind "words" what each class is called.

    Raises:
        DataError: there are not so many.
    """
    rng = np.random.default_rng(seed)
    draw = _classified(name, rng, words, labels) if kind == "words" else _answered(kind, rng, strings)
    found: dict[str, Example] = {}
    for _ in range(TRIES * count):
        if len(found) == count:
            break
        example = next(draw)
        found.setdefault(example.input, example)
    if len(found) < count:
        msg = (
            f"Generated task '{name}' should have {count} different inputs, but only {len(found)} were found among "
            f"{TRIES * count} draws. Lower `count`, or allow longer texts."
        )
        raise DataError(msg)
    return list(found.values())


def labels_of(kind: Kind, strings: Strings, labels: tuple[str, ...]) -> tuple[str, ...] | None:
    """All answers of a task of that kind; None where they are strings of any form."""
    if kind == "words":
        return labels
    if kind == "count":
        return NUMBERS[: strings.longest + 1]
    return tuple(LETTERS[: strings.letters]) if kind in ("first", "largest") else None


def banks(classes: int) -> list[list[str]]:
    """The words that tasks share: for each class a list of them, always the same."""
    return _own_words(np.random.default_rng(0), classes, BANK)


def text_of(rng: np.random.Generator, label: int, words: Words, shared: list[list[str]]) -> list[str]:
    """The words of one text of a class, without words of a task's own."""
    own = rng.random(words.length) < words.shared
    of = np.where(own, label, rng.integers(0, len(shared), words.length))
    return [shared[bank][at] for bank, at in zip(of, rng.integers(0, BANK, words.length), strict=True)]


def _answered(kind: Kind, rng: np.random.Generator, strings: Strings) -> Iterator[Example]:
    while True:
        text = strings.draw(rng, kind)
        yield Example(text, SKILLS[kind](text))


def _classified(
    name: str, rng: np.random.Generator, words: Words, labels: tuple[str, ...]
) -> Iterator[Example]:
    shared = banks(len(labels))
    own = _own_words(np.random.default_rng(list(name.encode())), len(labels), 1, syllables=2)
    while True:
        label = int(rng.integers(len(labels)))
        text = text_of(rng, label, words, shared)
        if rng.random() < words.own:
            text[int(rng.integers(len(text)))] = own[label][0]
        yield Example(" ".join(text), labels[label])


def _own_words(rng: np.random.Generator, classes: int, each: int, *, syllables: int = 1) -> list[list[str]]:
    """Different made-up words, `each` for every class."""
    found: dict[str, None] = {}
    while len(found) < classes * each:
        found[_word(rng, syllables)] = None
    listed = list(found)
    return [listed[at * each : (at + 1) * each] for at in range(classes)]


def _word(rng: np.random.Generator, syllables: int) -> str:
    """Such as "bak", or of two syllables "nodi"."""
    if syllables == 1:
        return _letter(rng, CONSONANTS) + _letter(rng, VOWELS) + _letter(rng, CONSONANTS)
    return "".join(_letter(rng, CONSONANTS) + _letter(rng, VOWELS) for _ in range(syllables))


def _letter(rng: np.random.Generator, letters: str) -> str:
    return letters[int(rng.integers(len(letters)))]
