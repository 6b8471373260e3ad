"""Loss and accuracy of many models with the same shape, one after another or a batch of them at once."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.functional import cross_entropy

from merge_lib.errors import DataError
from merge_lib.ops.functional_models import Weighted
from merge_lib.probe import Batch, Probe, Split
from merge_lib.types import StateDict

BATCH = 512  # examples that are shown at once
SMALL = 5_000  # parameters: up to here the time goes into calls rather than into arithmetic
POINTS_AT_ONCE = 32  # of small models

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examples:
    """What models are measured on.

    Attributes:
        batches: by task.
    """

    probe: Probe
    batches: Mapping[str, Sequence[Batch]]

    @classmethod
    def draw(
        cls, probe: Probe, tasks: Sequence[str], *, count: int, seed: int = 0, split: Split = "test"
    ) -> "Examples":
        """`count` examples of each task, or all if there are fewer; the same for the same seed.

        Raises:
            DataError: a task has none in that split.
        """
        drawn = {
            task: tuple(probe.batches(task, split=split, count=count, seed=seed, size=BATCH))
            for task in tasks
        }
        if empty := [task for task, batches in drawn.items() if not sum(len(b.labels) for b in batches)]:
            raise DataError(
                f"Task {', '.join(empty)} has no example in its {split} split, so no loss can be measured on it. "
                "Make its snapshot anew with examples there, or leave the task out."
            )
        return cls(probe, drawn)

    @property
    def tasks(self) -> list[str]:
        """In the order of the columns of what is measured."""
        return list(self.batches)


def measure(examples: Examples, models: Iterable[StateDict]) -> Iterator[Float[Tensor, "t 2"]]:
    """Mean cross-entropy in nats and accuracy of each model on each task, in float64.

    Small models (at most `SMALL` parameters) are measured `POINTS_AT_ONCE` at once by `vmap`; larger ones one by one,
    as their arithmetic fills the cores already. The module is made once, from the first model, in the probe's dtype.
    Memory: the module, one model (of small ones `POINTS_AT_ONCE`), and the activations of `BATCH` examples.

    Args:
        examples: what is shown.
        models: weights and buffers by name; what the module does not have is of no effect.

    Yields:
        [t, 2]: loss and accuracy on each task.
    """
    waiting = iter(models)
    first = next(waiting, None)
    if first is None:
        return
    module = examples.probe.module(first)
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    dtypes = {name: value.dtype for name, value in own.items() if name in first}
    chained = _chain(first, waiting)
    if sum(value.numel() for value in own.values()) <= SMALL:
        yield from _in_groups(examples, module, dtypes, chained)
        return
    for model in chained:
        yield _one(examples, module, _fitted(model, dtypes))


def _chain(first: StateDict, rest: Iterator[StateDict]) -> Iterator[StateDict]:
    yield first
    yield from rest


def _fitted(model: StateDict, dtypes: Mapping[str, torch.dtype]) -> dict[str, Tensor]:
    """What the module has, in its dtypes."""
    return {name: model[name].to(dtype) for name, dtype in dtypes.items()}


def _in_groups(
    examples: Examples, module: nn.Module, dtypes: Mapping[str, torch.dtype], models: Iterator[StateDict]
) -> Iterator[Tensor]:
    """Groups of models by `vmap`; one by one from the first group on that it refuses."""
    is_batched = True
    while group := [_fitted(model, dtypes) for model in islice(models, POINTS_AT_ONCE)]:
        if is_batched:
            try:
                yield from _together(examples, module, group)
                continue
            except RuntimeError as refusal:
                logger.info("Models are measured one by one, as vmap refuses this one: %s", refusal)
                is_batched = False
        for model in group:
            yield _one(examples, module, model)


def _together(examples: Examples, module: nn.Module, group: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """[p, t, 2] of a group of models."""
    stacked = {name: torch.stack([model[name] for model in group]) for name in group[0]}
    return vmap(lambda weights: _one(examples, module, weights))(stacked)


def _one(examples: Examples, module: nn.Module, weights: Mapping[str, Tensor]) -> Float[Tensor, "t 2"]:
    """Loss and accuracy of one model on each task."""
    model = Weighted(module, weights)
    with torch.no_grad():
        return torch.stack(
            [_on_task(examples.probe, model, batches, task) for task, batches in examples.batches.items()]
        )


def _on_task(probe: Probe, model: Weighted, batches: Sequence[Batch], task: str) -> Float[Tensor, " 2"]:
    sums: list[Tensor] = []
    for batch in batches:
        logits = probe.logits(model, batch, task).double()
        loss = cross_entropy(logits, batch.labels, reduction="sum")
        sums.append(torch.stack([loss, (logits.argmax(1) == batch.labels).double().sum()]))
    return torch.stack(sums).sum(0) / sum(len(batch.labels) for batch in batches)
