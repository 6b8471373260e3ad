"""Observing what flows through a model, a group of layers at a time, into a folder."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from merge_lib.calibration.fisher import add_fisher
from merge_lib.calibration.hooks import Observable, listening, observable
from merge_lib.calibration.manifest import Manifest
from merge_lib.calibration.store import Collecting, ObservationFolder
from merge_lib.calibration.sums import Sum, begin_sum
from merge_lib.errors import SpecError
from merge_lib.ops.cores import one_core
from merge_lib.probe import Batch, Probe, Split, drawn
from merge_lib.registry import Observation
from merge_lib.types import StateDict

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Calibration:
    """Which observations to collect.

    Attributes:
        kind: "features", "gram" or "fisher".
        examples: of the task, drawn with the seed.
        split: of the data.
        rows: features of a layer that are kept at most, evenly spaced; None keeps all.
        batch_size: examples at once; it changes results only by rounding.
        memory_bytes: of Gram matrices that are summed at once, where further layers take further passes over the
            data; of examples' gradients for the Fisher information, where a batch has fewer examples then.

    Raises:
        SpecError: a count is less than 1.
    """

    kind: Observation
    examples: int
    seed: int = 0
    split: Split = "train"
    rows: int | None = None
    batch_size: int = 32
    memory_bytes: int = 2**30

    def __post_init__(self) -> None:
        asked = {"examples": self.examples, "rows": self.rows, "batch_size": self.batch_size}
        wrong = [f"`{name}` is {value}" for name, value in asked.items() if value is not None and value < 1]
        if wrong:
            raise SpecError(
                f"Observations cannot be collected: {', '.join(wrong)}, but each must be at least 1. Correct them."
            )


def collect(
    calibration: Calibration,
    state: StateDict,
    probe: Probe,
    task: str,
    out: Path,
    *,
    data: str,
    model: str,
    progress: Progress = lambda _done, _all: None,
) -> ObservationFolder:
    """Show a task's inputs to a model and keep what its layers see.

    Features and Gram matrices go on where an interrupted run stopped; Fisher information, all of which is finished at
    once, begins anew.

    Args:
        calibration: what to collect.
        state: the weights that see the inputs.
        probe: the workload.
        task: whose inputs.
        out: the folder; a new one, or one of the same observations, whole or not.
        data: hash of the data, for the record.
        model: digest of the weights, for the record.
        progress: told how many tensors, or batches, of how many are done.

    Returns:
        The folder, whole.

    Raises:
        DataError: the task has no examples in that split.
        SpecError: the folder holds other things.
        CheckpointCorruptError: the folder says of itself what cannot be read.
    """
    with one_core():
        shown = _drawn(calibration, state, probe, task)
        examples = sum(len(batch.labels) for batch in shown)
        asked = Manifest(
            calibration.kind,
            task,
            data,
            model,
            calibration.split,
            examples,
            calibration.seed,
            {},
            rows=calibration.rows,
        )
        showing = _Showing(probe.module(state), probe, task, shown)
        folder = Collecting(out, asked)
        if not folder.is_whole:
            fill = _fill_with_fisher if calibration.kind == "fisher" else _fill_with_rows
            fill(folder, calibration, showing, progress)
    return ObservationFolder(out)


def _drawn(calibration: Calibration, state: StateDict, probe: Probe, task: str) -> list[Batch]:
    """The examples that are shown, in batches that the memory holds."""
    size = calibration.batch_size
    if calibration.kind == "fisher":
        each = 4 * sum(tensor.numel() for tensor in state.values())
        size = max(1, min(size, calibration.memory_bytes // max(each, 1)))
    return drawn(
        probe, task, split=calibration.split, count=calibration.examples, seed=calibration.seed, size=size
    )


@dataclass(frozen=True)
class _Showing:
    """A task's examples, and the model that is shown them."""

    module: nn.Module
    probe: Probe
    task: str
    batches: Sequence[Batch]

    @torch.no_grad()
    def to(self, sums: Mapping[str, Sum]) -> None:
        """One pass over the examples."""
        for batch in self.batches:
            with listening(self.module, sums, lambda name, rows: sums[name].add(rows), batch.is_token):
                self.probe.logits(self.module, batch, self.task)


def _fill_with_fisher(
    folder: Collecting, _calibration: Calibration, showing: _Showing, progress: Progress
) -> None:
    squares = []
    found = add_fisher(showing.module, showing.probe, showing.task, showing.batches, progress)
    for name, value, count in found:
        folder.keep(name, value, count)
        squares.append(float(value.double().square().sum()))
    folder.finish(sum(squares) ** 0.5)


def _fill_with_rows(
    folder: Collecting, calibration: Calibration, showing: _Showing, progress: Progress
) -> None:
    every = observable(showing.module)
    left = {name: one for name, one in every.items() if name not in folder.manifest.counts}
    done = len(every) - len(left)
    for group in _groups(left, calibration):
        sums = {
            name: begin_sum(calibration.kind, is_scale=every[name].is_scale, rows=calibration.rows)
            for name in group
        }
        showing.to(sums)
        for name, total in sums.items():
            if (found := total.close()) is not None:
                folder.keep(name, *found)
            done += 1
            progress(done, len(every))
    folder.finish(None)


def _groups(layers: Mapping[str, Observable], calibration: Calibration) -> Iterator[list[str]]:
    """Names in order, as many at once as the memory holds; at least one."""
    group: list[str] = []
    size = 0
    for name, layer in layers.items():
        needed = layer.gram_bytes if calibration.kind == "gram" else 0
        if group and size + needed > calibration.memory_bytes:
            yield group
            group, size = [], 0
        group.append(name)
        size += needed
    if group:
        yield group
