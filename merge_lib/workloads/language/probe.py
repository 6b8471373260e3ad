"""The language workload as data-dependent merging sees it: prompts, and the log-likelihoods of answers.

On a task with labels the outputs are the labels. On a task with open answers they are two: any other answer, and the
right one. There the right answer is a part of the inputs, so methods that see no labels are told more there.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from merge_lib.probe import Batch, Model, Split
from merge_lib.types import StateDict
from merge_lib.workloads.language.asking import TaskTexts
from merge_lib.workloads.language.models import LanguageModels
from merge_lib.workloads.vision.probe import drawn

OPEN = ("another answer", "the right answer")


@dataclass(frozen=True)
class LanguageProbe:
    """Its model, prompts and outputs.

    Attributes:
        models: of checkpoints.
        texts: of each task.
    """

    models: LanguageModels
    texts: Mapping[str, TaskTexts]

    def module(self, state: StateDict) -> nn.Module:
        """A model with these weights.

        Raises:
            CheckpointMismatchError: they are not of this model.
            CheckpointCorruptError: they are not finite.
        """
        return self.models.observed(state)

    def batches(self, task: str, *, split: Split, count: int, seed: int, size: int) -> Iterator[Batch]:
        """Prompts of a task without repetition."""
        texts = self.texts[task]
        encoded = texts.encoded(split)
        right = torch.ones(len(encoded), dtype=torch.long) if texts.labels is None else texts.classes(split)
        for rows in drawn(len(encoded), count=count, seed=seed, size=size):
            inputs, is_token = texts.inputs(split, rows.tolist())
            yield Batch(inputs, right[rows], is_token, rows)

    def logits(self, model: Model, batch: Batch, task: str) -> Float[Tensor, "b c"]:
        """Log-likelihoods of the labels; of an open answer log (1 - p) and log p."""
        return self.texts[task].scores(model, batch.inputs)

    def text(self, inputs: Mapping[str, Tensor], row: int) -> str:
        """The prompt."""
        tokens = inputs["input_ids"][row][inputs["attention_mask"][row].bool()]
        return self.models.encoder.decode(tokens)

    def outputs(self, task: str) -> tuple[str, ...]:
        """The labels."""
        return self.texts[task].labels or OPEN
