"""Texts as the tokens of a checkpoint's own tokenizer."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Int64
from torch import Tensor

from merge_lib.errors import DataError


class Texts:
    """A tokenizer, and the length that the model takes.

    Args:
        tokenizer: of transformers.
        length: tokens at most, with those that begin and end a text.
    """

    def __init__(self, tokenizer: Any, *, length: int) -> None:
        self.tokenizer, self.length = tokenizer, length

    def ids(self, texts: Sequence[str]) -> Int64[Tensor, "p l"]:
        """Tokens of each text, padded to the longest.

        Raises:
            DataError: texts are longer than the model takes; all are named.
        """
        found = self.tokenizer(list(texts), padding=True, return_tensors="pt")
        lengths = found.attention_mask.sum(1)
        if (lengths > self.length).any():
            long = [
                f"'{text}' ({n})" for text, n in zip(texts, lengths.tolist(), strict=True) if n > self.length
            ]
            msg = (
                f"The model takes texts of at most {self.length} tokens, but these have more: {', '.join(long)}. "
                "Shorten the templates or the classes' names."
            )
            raise DataError(msg)
        return found.input_ids
