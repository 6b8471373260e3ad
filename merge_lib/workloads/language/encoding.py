"""Prompts and answers as tokens, and batches of them.

Legend: b examples, s tokens of the longest prompt, t tokens of the longest answer with the token that ends it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from merge_lib.errors import DataError, SpecError
from merge_lib.workloads.language.snapshots import Example, TextSnapshot, Wording

IGNORED = -100  # a label that no loss is taken of
TooLong = Literal["error", "cut"]


class Encoded(NamedTuple):
    """An example as tokens; the answer ends with the token that ends texts."""

    prompt: list[int]
    target: list[int]


@dataclass(frozen=True)
class Limits:
    """How long texts may be, in tokens, and what happens to longer inputs; longer answers are always refused."""

    prompt: int
    target: int
    too_long: TooLong


@dataclass(frozen=True)
class Encoder:
    """A model's tokenizer, as prompts and answers go through it.

    Attributes:
        tokenizer: of transformers.
        start: the token that a decoder begins with; None: the model is causal, and goes on with the prompt.
        limits: on lengths.
    """

    tokenizer: Any
    start: int | None
    limits: Limits

    @property
    def is_causal(self) -> bool:
        """Whether prompt and answer are one text."""
        return self.start is None

    @cached_property
    def end(self) -> int:
        """The token that ends a text."""
        if self.tokenizer.eos_token_id is None:
            msg = "The model's tokenizer has no token that ends a text, so its answers would never stop. Name another."
            raise SpecError(msg)
        return self.tokenizer.eos_token_id

    @cached_property
    def filler(self) -> int:
        """The token at positions that nothing looks at."""
        return self.end if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id

    def task(self, snapshot: TextSnapshot, examples: Sequence[Example]) -> list[Encoded]:
        """Examples of a task.

        Raises:
            DataError: texts are too long; counts all of them.
        """
        prompts = [self._prompt(snapshot.wording, example.input) for example in examples]
        targets = [list(self.answer(snapshot.wording, example.target)) for example in examples]
        faults = [*self._over(prompts, self.limits.prompt, "prompt", "max_input")]
        faults += self._over(targets, self.limits.target, "answer", "max_target")
        if faults:
            remedy = "Raise the limits, or set `too_long: cut` to shorten inputs."
            msg = f"Task '{snapshot.name}' has texts that are too long: {'; '.join(faults)}. {remedy}"
            raise DataError(msg)
        return [Encoded(*pair) for pair in zip(prompts, targets, strict=True)]

    def answer(self, wording: Wording, text: str) -> tuple[int, ...]:
        """An answer's tokens as they follow the task's prompts, and the one that ends it.

        For causal models what the answer adds to a prompt, so that a space between them is part of its first word.
        """
        found: Sequence[int] = ()
        if self.is_causal:
            asked = wording.prompt("")
            head, whole = self.tokens(self.opening(asked)), self.tokens(f"{asked}{text}")
            found = whole[len(head) :] if whole[: len(head)] == head else ()
        return (*(found or self.tokenizer(text, add_special_tokens=False)["input_ids"]), self.end)

    def decode(self, tokens: Tensor) -> str:
        """What was answered, without white space around it."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True).strip()

    def tokens(self, text: str) -> list[int]:
        """A prompt's tokens, with those that a text of this model begins with."""
        found = list(self.tokenizer(text, add_special_tokens=True)["input_ids"])
        return found[:-1] if self.is_causal and found[-1:] == [self.end] else found

    def opening(self, text: str) -> str:
        """What of a prompt is asked; spaces at its end a causal model says itself, as one with the next word."""
        return text.rstrip(" ") if self.is_causal else text

    def _prompt(self, wording: Wording, text: str) -> list[int]:
        """The prompt's tokens; with `cut`, the input loses its end until they are few enough."""
        found = self.tokens(self.opening(wording.prompt(text)))
        while self.limits.too_long == "cut" and text and (excess := len(found) - self.limits.prompt) > 0:
            text = text[: -max(1, ceil(len(text) * excess / len(found)))]
            found = self.tokens(self.opening(wording.prompt(text)))
        return found

    @staticmethod
    def _over(lists: Sequence[Sequence[int]], most: int, what: str, key: str) -> list[str]:
        lengths = [len(one) for one in lists if len(one) > most]
        if not lengths:
            return []
        return [f"{len(lengths)} {what}s of more than `{key}` {most} tokens, the longest of {max(lengths)}"]


def padded(
    lists: Sequence[Sequence[int]], filler: int, *, left: bool
) -> tuple[Int64[Tensor, "b s"], Bool[Tensor, "b s"]]:
    """Lists of tokens as one tensor, and where it is not filled up."""
    longest = max(map(len, lists))
    tokens = torch.full((len(lists), longest), filler)
    is_token = torch.zeros((len(lists), longest), dtype=torch.bool)
    for row, one in enumerate(lists):
        place = slice(longest - len(one), longest) if left else slice(0, len(one))
        tokens[row, place] = torch.tensor(one)
        is_token[row, place] = True
    return tokens, is_token
