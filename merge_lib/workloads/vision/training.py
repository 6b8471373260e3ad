"""Training: AdamW, cosine schedule with linear warm-up, every draw from one seeded generator."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from merge_lib.errors import SpecError, TrainingError
from merge_lib.workloads.protocol import Progress
from merge_lib.workloads.vision.config import TrainingConfig

PROGRESS_STEPS = 10  # a progress report at least every so many steps

Outputs = Callable[[Float[Tensor, "n c"], Int64[Tensor, " n"]], Float[Tensor, "n o"]]
Stamp = Callable[[Float[Tensor, "n *k h w"], Int64[Tensor, " n"]], Float[Tensor, "n *k h w"]]
"""What is written over augmented images, given their rows in the training set."""


@dataclass(frozen=True)
class TrainingSet:
    """Images in [-1, 1], the output that is right for each, and the index of the task each belongs to."""

    images: Float[Tensor, "n *k h w"]
    targets: Int64[Tensor, " n"]
    task: Int64[Tensor, " n"]


def train(
    model: nn.Module,
    examples: TrainingSet,
    config: TrainingConfig,
    *,
    outputs: Outputs,
    generator: torch.Generator,
    stamp: Stamp | None = None,
    progress: Progress | None = None,
) -> list[float]:
    """Train the model in place; the mean loss of each epoch.

    Raises:
        TrainingError: a loss is not finite.
        SpecError: `freeze` names no parameter, or leaves none to train.
    """
    trained = trainable_parameters(model, config.freeze)
    n = len(examples.images)
    per_epoch = math.ceil(n / config.batch_size)
    total = step_count(n, config)
    optimizer = torch.optim.AdamW(
        trained, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _cosine(step, total, config.warmup))
    model.train()
    losses: list[float] = []
    for step, rows in enumerate(_batches(n, config, generator)):
        images = shifted(examples.images[rows], config.shift, generator)
        images = images if stamp is None else stamp(images, rows)
        scores = outputs(model(images), examples.task[rows])
        loss = functional.cross_entropy(
            scores, examples.targets[rows], label_smoothing=config.label_smoothing
        )
        losses.append(_finite(loss, step, total, config))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
        optimizer.step()
        schedule.step()
        if progress and ((step + 1) % PROGRESS_STEPS == 0 or step + 1 == total):
            progress(step + 1, total)
    return [sum(losses[at : at + per_epoch]) / per_epoch for at in range(0, total, per_epoch)]


def step_count(n: int, config: TrainingConfig) -> int:
    """Steps of a training on n examples."""
    return math.ceil(n / config.batch_size) * config.epochs


def trainable_parameters(model: nn.Module, freeze: Sequence[str]) -> list[nn.Parameter]:
    """The parameters that no pattern of `freeze` names; the others stop requiring a gradient.

    A pattern is a glob on the parameter's name, or the name of a module, which stands for all in it.
    """
    names = [name for name, _ in model.named_parameters()]
    frozen: set[str] = set()
    for pattern in freeze:
        matched = [n for n in names if fnmatchcase(n, pattern) or fnmatchcase(n, f"{pattern}.*")]
        if not matched:
            msg = f"`freeze` pattern '{pattern}' names no parameter of the model; known: {', '.join(names)}."
            raise SpecError(msg)
        frozen.update(matched)
    if len(frozen) == len(names):
        msg = f"`freeze` {list(freeze)} names every parameter of the model. Leave at least one to train."
        raise SpecError(msg)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def shifted(
    images: Float[Tensor, "n *k h w"], most: int, generator: torch.Generator
) -> Float[Tensor, "n *k h w"]:
    """Each image moved by up to `most` pixels each way, with paper moving in at the border."""
    if most == 0:
        return images
    n, *channels, h, w = images.shape
    padded = functional.pad(images, (most, most, most, most), value=-1.0)
    down, right = torch.randint(2 * most + 1, (2, n), generator=generator)
    rows = (down[:, None] + torch.arange(h))[:, :, None]  # [n, h, 1]
    columns = (right[:, None] + torch.arange(w))[:, None, :]  # [n, 1, w]
    moved = padded[torch.arange(n)[:, None, None], ..., rows, columns]  # [n, h, w, *k]
    return moved.movedim(-1, 1) if channels else moved


def _batches(n: int, config: TrainingConfig, generator: torch.Generator) -> Iterator[Int64[Tensor, " b"]]:
    """Rows of each batch: every epoch a fresh order, the last batch of an epoch maybe smaller."""
    for _ in range(config.epochs):
        yield from torch.randperm(n, generator=generator).split(config.batch_size)


def _cosine(step: int, total: int, warmup: float) -> float:
    """Factor on the learning rate: rises linearly over the warm-up, then falls to 0 along a cosine."""
    rise = max(1, round(total * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1.0 + math.cos(math.pi * (step - rise) / max(1, total - rise)))


def _finite(loss: Tensor, step: int, total: int, config: TrainingConfig) -> float:
    """The loss as a number."""
    value = loss.item()
    if not math.isfinite(value):
        msg = (
            f"The loss is {value} at step {step + 1} of {total}, but must be finite. The training diverged: "
            f"lower `learning_rate` (now {config.learning_rate}) or `max_grad_norm` ({config.max_grad_norm})."
        )
        raise TrainingError(msg)
    return value
