"""Observing what flows through a model, a group of layers at a time, into a folder."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from merge_lib.calibration.fisher import add_fisher
from merge_lib.calibration.hooks import listening, observable
from merge_lib.calibration.store import MANIFEST, Manifest, ObservationFolder, finish, write_value
from merge_lib.errors import DataError
from merge_lib.ops.cores import one_core
from merge_lib.probe import Batch, Probe, Split
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
        memory_bytes: of Gram matrices that are summed at once; further layers take further passes over the data.
    """

    kind: Observation
    examples: int
    seed: int = 0
    split: Split = "train"
    rows: int | None = None
    batch_size: int = 32
    memory_bytes: int = 2**30


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

    Args:
        calibration: what to collect.
        state: the weights that see the inputs.
        probe: the workload.
        task: whose inputs.
        out: the folder; tensors that an interrupted run has finished are kept.
        data: hash of the data, for the record.
        model: digest of the weights, for the record.
        progress: told how many tensors of how many are done.

    Returns:
        The folder, whole.

    Raises:
        DataError: the task has no examples in that split.
    """
    out.mkdir(parents=True, exist_ok=True)
    if (out / MANIFEST).exists():
        return ObservationFolder(out)
    with one_core():
        batches = list(
            probe.batches(
                task,
                split=calibration.split,
                count=calibration.examples,
                seed=calibration.seed,
                size=calibration.batch_size,
            )
        )
        examples = sum(len(batch.labels) for batch in batches)
        if examples == 0:
            raise DataError(
                f"Task '{task}' has no examples in its {calibration.split} split, but merging needs some. "
                "Name another split, or leave out the methods that need data."
            )
        module = probe.module(state)
        counts: dict[str, int] = {}
        squares: list[float] = []
        for name, value, count in _observed(calibration, module, probe, task, batches, progress):
            write_value(out, name, value)
            counts[name] = count
            squares.append(float(value.double().square().sum()))
    norm = sum(squares) ** 0.5 if calibration.kind == "fisher" else None
    told = Manifest(
        calibration.kind, task, data, model, calibration.split, examples, calibration.seed, counts, norm
    )
    finish(out, told)
    return ObservationFolder(out)


def _observed(
    calibration: Calibration,
    module: nn.Module,
    probe: Probe,
    task: str,
    batches: Sequence[Batch],
    progress: Progress,
) -> Iterator[tuple[str, Tensor, int]]:
    """(tensor name, value in float32, rows or examples)."""
    if calibration.kind == "fisher":
        yield from add_fisher(module, probe, task, batches, progress)
        return
    widths = observable(module)
    done = 0
    for group in _groups(widths, calibration):
        sums = {name: _sum_for(calibration, module, name) for name in group}
        _show(module, probe, task, batches, sums)
        for name, total in sums.items():
            done += 1
            progress(done, len(widths))
            if total.count:
                yield name, total.value(), total.count


def _groups(widths: Mapping[str, int], calibration: Calibration) -> Iterator[list[str]]:
    """Names in order, as many at once as the memory holds; at least one."""
    group: list[str] = []
    size = 0
    for name, width in widths.items():
        needed = 8 * width * width if calibration.kind == "gram" else 0
        if group and size + needed > calibration.memory_bytes:
            yield group
            group, size = [], 0
        group.append(name)
        size += needed
    if group:
        yield group


@torch.no_grad()
def _show(
    module: nn.Module, probe: Probe, task: str, batches: Sequence[Batch], sums: "Mapping[str, _Sum]"
) -> None:
    shown: list[Batch] = []

    def take(name: str, rows: Tensor) -> None:
        sums[name].add(rows)

    with listening(module, sums, take, lambda: shown[-1].is_token):
        for batch in batches:
            shown.append(batch)
            probe.logits(module, batch, task)


def _sum_for(calibration: Calibration, module: nn.Module, name: str) -> "_Sum":
    if calibration.kind == "features":
        return _Rows(calibration.rows)
    return _Squares() if module.get_parameter(name).ndim == 1 else _Gram()


class _Sum:
    """What is kept of the rows of one layer."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, rows: Tensor) -> None:
        """Take rows [n, width]."""
        raise NotImplementedError

    def value(self) -> Tensor:
        """What is written, float32."""
        raise NotImplementedError


class _Rows(_Sum):
    """The rows themselves, or some of them at even distances."""

    def __init__(self, most: int | None) -> None:
        super().__init__()
        self._most, self._rows = most, []

    def add(self, rows: Tensor) -> None:
        self.count += len(rows)
        self._rows.append(rows.float().clone())

    def value(self) -> Tensor:
        rows = torch.cat(self._rows)
        if self._most is not None and len(rows) > self._most:
            places = torch.arange(self._most) * len(rows) // self._most
            rows = rows[places]
            self.count = self._most
        return rows


class _Gram(_Sum):
    """The mean of x·xᵀ, summed in float64."""

    def __init__(self) -> None:
        super().__init__()
        self._total: Tensor | float = 0.0

    def add(self, rows: Tensor) -> None:
        self.count += len(rows)
        wide = rows.double()
        self._total = self._total + wide.T @ wide

    def value(self) -> Tensor:
        return (self._total / self.count).float()  # type: ignore[union-attr]


class _Squares(_Sum):
    """The mean square of each column."""

    def __init__(self) -> None:
        super().__init__()
        self._total: Tensor | float = 0.0

    def add(self, rows: Tensor) -> None:
        self.count += len(rows)
        self._total = self._total + rows.double().square().sum(0)

    def value(self) -> Tensor:
        return (self._total / self.count).float()  # type: ignore[union-attr]
