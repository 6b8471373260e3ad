"""A task as a model is asked: its prompts and answers in tokens, and which answers a model gives.

Legend: b prompts of a batch, c labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from merge_lib.probe import Model, Split
from merge_lib.workloads.language.config import Normalise, Scoring
from merge_lib.workloads.language.encoding import Encoded, Encoder, padded
from merge_lib.workloads.language.generating import generate
from merge_lib.workloads.language.ranking import answer_scores, continuing, target_scores
from merge_lib.workloads.language.snapshots import TextSnapshot

SUREST = -1e-6  # log p of a right answer at most, so that log (1 - p) is finite


@dataclass(frozen=True)
class Asking:
    """How answers are judged.

    Attributes:
        scoring: "exact_match": the answer that a model gives by itself is the right one, white space around it aside.
            "log_likelihood": of all labels the right one is the most likely; of equal ones the first counts.
        normalise: by what log-likelihoods are divided.
        stop: texts that end a generated answer.
        at_once: prompts in a batch.
    """

    scoring: Scoring = "exact_match"
    normalise: Normalise = "none"
    stop: tuple[str, ...] = ()
    at_once: int = 64


@dataclass(frozen=True)
class TaskTexts:
    """One task."""

    snapshot: TextSnapshot
    encoder: Encoder
    asking: Asking
    _encoded: dict[Split, list[Encoded]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def labels(self) -> tuple[str, ...] | None:
        """All answers; None: they are open."""
        return self.snapshot.labels

    @property
    def chance(self) -> float:
        """Accuracy of guessing among the labels; 0 where answers are open."""
        return 1.0 / len(self.labels) if self.labels else 0.0

    def encoded(self, split: Split) -> list[Encoded]:
        """The examples of a split.

        Raises:
            DataError: texts are too long.
        """
        if split not in self._encoded:
            self._encoded[split] = self.encoder.task(self.snapshot, self.snapshot.splits[split])
        return self._encoded[split]

    def classes(self, split: Split) -> Int64[Tensor, " n"]:
        """The number of each example's label."""
        number = {label: at for at, label in enumerate(self.labels or ())}
        return torch.tensor([number[example.target] for example in self.snapshot.splits[split]])

    def accuracy(self, model: Any, split: Split) -> float:
        """Share of right answers of a model of transformers."""
        if self.asking.scoring == "exact_match":
            wanted = [example.target.strip() for example in self.snapshot.splits[split]]
            right = [said == want for said, want in zip(self.said(model, split), wanted, strict=True)]
            return sum(right) / len(right)
        return float((self.ranked(model, split) == self.classes(split)).double().mean())

    def said(self, model: Any, split: Split) -> list[str]:
        """What the model answers to each prompt; no further than the longest right answer of the task goes."""
        encoded = self.encoded(split)
        return generate(
            model,
            self.encoder,
            [one.prompt for one in encoded],
            most=max(len(one.target) for one in encoded),
            at_once=self.asking.at_once,
            stop=self.asking.stop,
        )

    def ranked(self, model: Any, split: Split) -> Int64[Tensor, " n"]:
        """The label that the model finds the most likely for each prompt; prompts of like length go together."""
        encoded = self.encoded(split)
        order = sorted(range(len(encoded)), key=lambda row: len(encoded[row].prompt))
        weight = next(model.parameters())
        found = torch.zeros(len(encoded), dtype=torch.long)
        for at in range(0, len(order), self.asking.at_once):
            rows = order[at : at + self.asking.at_once]
            inputs = {name: one.to(weight.device) for name, one in self.inputs(split, rows)[0].items()}
            with torch.inference_mode():
                found[rows] = self.scores(model, inputs, weight.dtype).argmax(1).cpu()
        return found

    def inputs(self, split: Split, rows: Sequence[int]) -> tuple[dict[str, Tensor], Bool[Tensor, "b s"]]:
        """Prompts as tensors, with the right answers where answers are open; and where they are not filled up."""
        chosen = [self.encoded(split)[row] for row in rows]
        filler, left = self.encoder.filler, self.encoder.is_causal
        tokens, is_token = padded([one.prompt for one in chosen], filler, left=left)
        inputs = {"input_ids": tokens, "attention_mask": is_token.long()}
        if self.labels is None:
            targets, is_target = padded([one.target for one in chosen], filler, left=False)
            inputs |= {"targets": targets, "target_mask": is_target.long()}
        return inputs, is_token

    def scores(
        self, model: Model, inputs: Mapping[str, Tensor], dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "b c"]:
        """Log-likelihoods of the labels, normalised; of an open answer log (1 - p) and log p.

        The model has that dtype; what is told is in float32.
        """
        told = continuing(model, inputs, start=self.encoder.start, dtype=dtype)
        prompts = inputs["input_ids"]
        if self.labels is None:
            right = target_scores(told, inputs["targets"], inputs["target_mask"].bool()).clamp(max=SUREST)
            return torch.stack([torch.log1p(-right.exp()), right], 1)
        scores = answer_scores(told, self._answers, prompts=len(prompts), device=prompts.device)
        return scores / torch.tensor(self._divisors, device=prompts.device)

    @cached_property
    def _answers(self) -> list[tuple[int, ...]]:
        """The labels in tokens."""
        return [self.encoder.answer(self.snapshot.wording, label) for label in self.labels or ()]

    @cached_property
    def _divisors(self) -> list[float]:
        """What each label's log-likelihood is divided by."""
        if self.asking.normalise == "tokens":
            return [float(len(answer)) for answer in self._answers]
        if self.asking.normalise == "bytes":
            return [float(len(label.encode())) for label in self.labels or ()]
        return [1.0] * len(self._answers)
