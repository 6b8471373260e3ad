"""Models and made-up examples that `mergeline bench training` times."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from merge_lib.errors import SpecError
from merge_lib.workloads.training.lessons import Batch
from merge_lib.workloads.vision.config import ViTConfig
from merge_lib.workloads.vision.lessons import ImageLesson, TrainingSet
from merge_lib.workloads.vision.model import initial_model

BATCHES = 8  # that the examples are enough for
LARGE = ViTConfig(image_size=224, patch_size=16, width=768, depth=12, heads=12, mlp_ratio=4, channels=3)
LLAMA = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
LLAMA_1B = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
}


@dataclass(frozen=True)
class Case:
    """A model, and its examples on the CPU.

    Attributes:
        make: the model, with the same values every time.
        lesson: as the training loop takes the examples.
        loss: as a bare loop has it, of a model and the rows of a batch.
        batch_size: examples of a step.
        steps: of one measurement.
    """

    name: str
    make: Callable[[], nn.Module]
    lesson: Any
    loss: Callable[[nn.Module, Tensor, torch.device], Tensor]
    batch_size: int
    steps: int


def case_of(name: str) -> Case:
    """The case of that name.

    Raises:
        SpecError: there is none, or transformers is not installed.
    """
    makers = {
        "vit": partial(_vit, "vit", ViTConfig(), classes=62, batch_size=32, steps=100),
        "vit-base": partial(_vit, "vit-base", LARGE, classes=1000, batch_size=64, steps=10),
        "llama": partial(_llama, "llama", LLAMA, words=64, batch_size=16, steps=30),
        "llama-1b": partial(_llama, "llama-1b", LLAMA_1B, words=512, batch_size=8, steps=10),
    }
    if name not in makers:
        raise SpecError(f"There is no model '{name}' to time. Known: {', '.join(makers)}.")
    if name.startswith("llama") and not find_spec("transformers"):
        raise SpecError(f"'{name}' needs transformers, which is not installed. Install mergeline[models].")
    return makers[name]()


def _vit(name: str, config: ViTConfig, *, classes: int, batch_size: int, steps: int) -> Case:
    """Random images."""
    generator = torch.Generator().manual_seed(0)
    size, side = BATCHES * batch_size, config.image_size
    shape = (size, side, side) if config.channels == 1 else (size, config.channels, side, side)
    images = torch.randn(shape, generator=generator)
    targets = torch.randint(classes, (size,), generator=generator)
    lesson = ImageLesson(TrainingSet(images, targets, torch.zeros_like(targets)))

    def loss(model: nn.Module, rows: Tensor, device: torch.device) -> Tensor:
        return functional.cross_entropy(model(images[rows].to(device)), targets[rows].to(device))

    def make() -> nn.Module:
        return initial_model(config, classes=classes, generator=torch.Generator().manual_seed(0))

    return Case(name, make, lesson, loss, batch_size, steps)


@dataclass(frozen=True)
class WordLesson:
    """Rows of random words, each to be told from those before it."""

    words: Tensor  # [n, s]

    @property
    def size(self) -> int:
        """How many rows there are."""
        return len(self.words)

    def batch(self, rows: Tensor, generator: torch.Generator) -> Batch:  # noqa: ARG002 -- nothing is augmented
        """These rows."""
        return {"words": self.words[rows]}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean over the words that are told."""
        return model(input_ids=batch["words"], labels=batch["words"]).loss

    def units(self, batch: Batch) -> int:
        """Words that are told: all but each row's first."""
        return batch["words"][:, 1:].numel()


def _llama(name: str, sizes: dict[str, int], *, words: int, batch_size: int, steps: int) -> Case:
    """A Llama with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    vocabulary = 32_000 if name == "llama-1b" else 256
    generator = torch.Generator().manual_seed(0)
    lesson = WordLesson(torch.randint(vocabulary, (BATCHES * batch_size, words), generator=generator))

    def loss(model: nn.Module, rows: Tensor, device: torch.device) -> Tensor:
        inputs = lesson.words[rows].to(device)
        return model(input_ids=inputs, labels=inputs).loss

    def make() -> nn.Module:
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, use_cache=False, **sizes))

    return Case(name, make, lesson, loss, batch_size, steps)
