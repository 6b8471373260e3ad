"""`mergeline bench training`: the training loop beside a bare one, on the same model and batches, in turn."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from statistics import median
from time import perf_counter, process_time
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from merge_lib.errors import SpecError
from merge_lib.workloads.training.config import TrainingConfig
from merge_lib.workloads.training.devices import training_device
from merge_lib.workloads.training.lessons import Batch
from merge_lib.workloads.training.loop import train
from merge_lib.workloads.training.schedule import Schedule
from merge_lib.workloads.vision.config import ViTConfig
from merge_lib.workloads.vision.lessons import ImageLesson, TrainingSet
from merge_lib.workloads.vision.model import initial_model

LIMIT_RATIO = 1.1
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


@dataclass(frozen=True)
class TrainingTimes:
    """Medians over the rounds; the ratio is of the two times of the same round."""

    name: str
    device: str
    precision: str
    parameters: int
    batch_size: int
    bare_step_s: float
    step_s: float
    ratio: float
    least_ratio: float
    most_ratio: float
    processor_ratio: float  # of processor time, which other work on the machine disturbs less
    peak_bytes: int | None  # of the GPU's memory, under our loop

    @property
    def examples_per_s(self) -> float:
        """By our loop."""
        return self.batch_size / self.step_s


def measure_training(
    names: Sequence[str],
    rounds: int,
    *,
    precision: Literal["fp32", "bf16"] = "fp32",
    steps: int | None = None,
) -> list[TrainingTimes]:
    """Time both loops in turn, on the device that trainings use.

    Args:
        names: of CASES; none: the small ones whose libraries are installed.
        rounds: of both loops; one more, which is not counted, warms up.
        precision: of both.
        steps: of each measurement; None: as many as suit the model on a CPU.

    Raises:
        SpecError: there is no such case, or transformers is not installed.
    """
    small = ("vit", "llama") if find_spec("transformers") else ("vit",)
    return [_measure(_case(name), rounds, precision, steps) for name in names or small]


def _measure(case: Case, rounds: int, precision: Literal["fp32", "bf16"], steps: int | None) -> TrainingTimes:
    steps, device = steps or case.steps, training_device()
    config = TrainingConfig(steps=steps, batch_size=case.batch_size, learning_rate=1e-4, precision=precision)
    loops: dict[str, Callable[[nn.Module], object]] = {
        "bare": partial(bare_loop, case, config, device),
        "ours": lambda model: train(model, case.lesson, config, generator=torch.Generator().manual_seed(0)),
    }
    models = {name: case.make().to(device) for name in loops}
    walls: dict[str, list[float]] = {name: [] for name in loops}
    processors: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(rounds + 1):
        for name in sorted(loops, reverse=bool(turn % 2)):
            wall_s, processor_s = _timed(partial(loops[name], models[name]), device)
            if turn:
                walls[name].append(wall_s / steps)
                processors[name].append(processor_s)
    ratios = _ratios(walls)
    return TrainingTimes(
        case.name,
        torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        precision,
        sum(parameter.numel() for parameter in models["ours"].parameters()),
        case.batch_size,
        median(walls["bare"]),
        median(walls["ours"]),
        median(ratios),
        min(ratios),
        max(ratios),
        median(_ratios(processors)),
        torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
    )


def bare_loop(case: Case, config: TrainingConfig, device: torch.device, model: nn.Module) -> None:
    """What everybody writes: batches, loss, backward, clipping, optimiser, schedule; nothing checked or kept."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, fused=True)
    total = config.steps or 0
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, Schedule(config, total).factor)
    lower = torch.autocast(device.type, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    rows: list[Tensor] = []
    for _ in range(total):
        rows = rows or list(torch.randperm(case.lesson.size, generator=generator).split(case.batch_size))
        with lower if config.precision == "bf16" else nullcontext():
            loss = case.loss(model, rows.pop(0), device)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        schedule.step()


def _ratios(times: dict[str, list[float]]) -> list[float]:
    """Ours over the bare loop's, round by round."""
    return [ours / bare for ours, bare in zip(times["ours"], times["bare"], strict=True)]


def _timed(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Seconds by the clock and of the processor; what a GPU has still to do is waited for."""
    _wait(device)
    started, busy = perf_counter(), process_time()
    work()
    _wait(device)
    return perf_counter() - started, process_time() - busy


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _case(name: str) -> Case:
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
