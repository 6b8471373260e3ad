"""Small byte-level models that stand in for real ones: T5 and Llama of a few layers, of transformers' own classes.

They are trained on generated lines with the instructions of `KNOWN`, of strings that are shorter than those of tasks
and texts that tell their class less clearly. So they know what is asked, as large models do, and fine-tuning teaches
them to do it well.
"""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from merge_lib.types import Count
from merge_lib.workloads.language.encoding import Encoder, Limits
from merge_lib.workloads.language.generated import SKILLS, Kind, Strings, Words, banks, text_of
from merge_lib.workloads.language.lessons import TextLesson
from merge_lib.workloads.language.snapshots import INPUT, Example, TextSnapshot, Wording
from merge_lib.workloads.protocol import Progress
from merge_lib.workloads.training.config import TrainingConfig

KNOWN: dict[str, tuple[Kind, tuple[str, ...]]] = {  # instruction -> what it means, and the labels of texts
    "copy": ("copy", ()),
    "reverse": ("reverse", ()),
    "sort": ("sort", ()),
    "count a": ("count", ()),
    "first": ("first", ()),
    "largest": ("largest", ()),
    "topic": ("words", ("land", "sea", "air", "fire")),
    "mood": ("words", ("glad", "calm", "wild", "dark")),
    "colour": ("words", ("red", "blue", "yellow", "green")),
}
CLASSES = 4  # of texts
TEMPLATE = "{instruction}: {input} ="
LIMITS = Limits(prompt=64, target=16, too_long="error")


class MiniModelConfig(BaseModel):
    """One entry of section `language.models` of params.yaml: sizes, and how it is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Literal["t5", "llama"]
    width: Count = 64
    depth: Count = 2  # layers; of a T5 in the encoder, and as many in the decoder
    heads: Count = 4
    lines: Count = 20_000  # different training lines
    steps: Count = 1200
    batch_size: Count = 64
    learning_rate: Annotated[float, Field(gt=0.0)] = 3e-3
    longest: Count = 4  # letters of a string; tasks have longer ones
    shared: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5  # chance of a word to be of its text's class
    seed: int = 0


def make_mini(config: MiniModelConfig, folder: Path, progress: Progress | None = None) -> list[float]:
    """Train a model and leave it in the folder as `save_pretrained` writes it; the mean loss of each epoch.

    Raises:
        TrainingError: the training diverged.
    """
    from transformers.utils import logging as transformers_logging

    from merge_lib.workloads.language.tokens import byte_tokenizer
    from merge_lib.workloads.training.loop import train

    model = initial_model(config)
    tokenizer = byte_tokenizer(config.architecture)
    encoder = Encoder(tokenizer, 0 if config.architecture == "t5" else None, LIMITS)
    lesson = TextLesson(
        encoder.task(TextSnapshot("lines", Wording(template=INPUT), None, {}, {}), lines(config)),
        encoder.filler,
        encoder.start,
    )
    training = TrainingConfig(
        steps=config.steps, batch_size=config.batch_size, learning_rate=config.learning_rate, warmup=0.05
    )
    generator = torch.Generator().manual_seed(config.seed)
    trained = train(model, lesson, training, generator=generator, progress=progress)
    transformers_logging.disable_progress_bar()
    model.cpu().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return trained.losses


def initial_model(config: MiniModelConfig) -> torch.nn.Module:
    """The model with random weights, drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(config.seed)
        return _t5(config) if config.architecture == "t5" else _llama(config)


def lines(config: MiniModelConfig) -> list[Example]:
    """What it is trained on: "sort: dbc =" and "bcd", for one."""
    rng = np.random.default_rng(config.seed)
    strings, words = Strings(shortest=1, longest=config.longest), Words(shared=config.shared)
    shared = banks(CLASSES)
    found = []
    for _ in range(config.lines):
        instruction = list(KNOWN)[int(rng.integers(len(KNOWN)))]
        kind, labels = KNOWN[instruction]
        if kind == "words":
            label = int(rng.integers(CLASSES))
            text, answer = " ".join(text_of(rng, label, words, shared)), labels[label]
        else:
            text = strings.draw(rng, kind)
            answer = SKILLS[kind](text)
        found.append(Example(Wording(instruction, TEMPLATE).prompt(text), answer))
    return found


def _t5(config: MiniModelConfig) -> torch.nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    from merge_lib.workloads.language.tokens import SIZE

    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=SIZE,
            d_model=config.width,
            d_kv=config.width // config.heads,
            d_ff=2 * config.width,
            num_layers=config.depth,
            num_decoder_layers=config.depth,
            num_heads=config.heads,
            relative_attention_num_buckets=16,
            relative_attention_max_distance=32,
            dropout_rate=0.0,
            pad_token_id=0,
            eos_token_id=1,
            decoder_start_token_id=0,
            tie_word_embeddings=True,
        )
    )


def _llama(config: MiniModelConfig) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    from merge_lib.workloads.language.tokens import SIZE

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=SIZE,
            hidden_size=config.width,
            intermediate_size=5 * config.width // 2,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=256,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
            tie_word_embeddings=True,
        )
    )
