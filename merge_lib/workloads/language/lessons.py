"""Training examples of text as the training loop takes them: the loss is of the answers' tokens alone.

Legend: b examples, s tokens of the longest text of a batch, t tokens of its longest answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from merge_lib.workloads.language.encoding import IGNORED, Encoded, padded


@dataclass(frozen=True)
class TextLesson:
    """Encoded examples, filled up to the longest of each batch.

    Attributes:
        examples: of one or more tasks.
        filler: the token at positions that nothing looks at.
        start: the token that a decoder begins with; None: the model is causal.
        label_smoothing: share of the target's probability that is spread over the vocabulary.
    """

    examples: Sequence[Encoded]
    filler: int
    start: int | None
    label_smoothing: float = 0.0

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self.examples)

    def batch(self, rows: Int64[Tensor, " b"], generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG002
        """Some of them: `input_ids`, `attention_mask`, `labels`, and for decoders `decoder_input_ids`."""
        chosen = [self.examples[row] for row in rows.tolist()]
        return self._following(chosen) if self.start is None else self._decoded(chosen, self.start)

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Float[Tensor, ""]:
        """Mean cross-entropy of the answers' tokens."""
        labels = batch["labels"]
        logits = model(
            **{key: value for key, value in batch.items() if key != "labels"}, use_cache=False
        ).logits
        return functional.cross_entropy(
            logits.flatten(0, 1).float(),
            labels.flatten(),
            ignore_index=IGNORED,
            label_smoothing=self.label_smoothing,
        )

    def units(self, batch: dict[str, Tensor]) -> int:
        """Tokens of answers."""
        return int((batch["labels"] != IGNORED).sum())

    def _following(self, chosen: Sequence[Encoded]) -> dict[str, Tensor]:
        """Prompt and answer in one; labels are of the token that comes next."""
        tokens, is_token = padded(
            [[*one.prompt, *one.target[:-1]] for one in chosen], self.filler, left=False
        )
        labels = [[*[IGNORED] * (len(one.prompt) - 1), *one.target] for one in chosen]
        return {
            "input_ids": tokens,
            "attention_mask": is_token.long(),
            "labels": padded(labels, IGNORED, left=False)[0],
        }

    def _decoded(self, chosen: Sequence[Encoded], start: int) -> dict[str, Tensor]:
        """Prompts for the encoder, answers for the decoder."""
        tokens, is_token = padded([one.prompt for one in chosen], self.filler, left=False)
        before = [[start, *one.target[:-1]] for one in chosen]
        return {
            "input_ids": tokens,
            "attention_mask": is_token.long(),
            "decoder_input_ids": padded(before, self.filler, left=False)[0],
            "labels": padded([one.target for one in chosen], IGNORED, left=False)[0],
        }
