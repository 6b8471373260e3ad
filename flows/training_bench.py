"""`mergeline bench training`: the training loop beside a bare one, on the same model and batches, in turn."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from math import comb
from statistics import median
from time import perf_counter, process_time
from typing import Literal

import torch
from torch import Tensor, nn

from flows.training_cases import Case, case_of
from merge_lib.workloads.training.config import TrainingConfig
from merge_lib.workloads.training.devices import training_device
from merge_lib.workloads.training.loop import train
from merge_lib.workloads.training.schedule import Schedule

LIMIT_RATIO = 1.1
MOST = 4  # times the rounds that were asked for, where these decide nothing
TAIL = 0.025  # chance that a median lies beyond either of its bounds


@dataclass(frozen=True)
class TrainingTimes:
    """Medians over the rounds; the ratio is of the two loops' times in the same round."""

    name: str
    device: str
    precision: str
    parameters: int
    batch_size: int
    rounds: int
    bare_step_s: float
    step_s: float
    ratio: float
    low_ratio: float  # the median of ever more rounds would lie from here
    high_ratio: float  # to here, with 95 % confidence
    processor_ratio: float  # of processor time, which other work on the machine disturbs less
    peak_bytes: int | None  # of the GPU's memory, under our loop

    @property
    def examples_per_s(self) -> float:
        """By our loop."""
        return self.batch_size / self.step_s

    @property
    def is_decided(self) -> bool:
        """Whether the rounds agree on which side of the limit the ratio lies."""
        return not self.low_ratio <= LIMIT_RATIO < self.high_ratio


def measure_training(
    names: Sequence[str],
    rounds: int,
    *,
    precision: Literal["fp32", "bf16"] = "fp32",
    steps: int | None = None,
) -> list[TrainingTimes]:
    """Time both loops in turn, on the device that trainings use.

    A round is bare, ours, ours, bare, or the other way round, so that what changes slowly on the machine falls on both
    alike. If the rounds leave it open whether the ratio is over the limit, there are more, up to four times as many.

    Args:
        names: as of `case_of`; none: the small ones whose libraries are installed.
        rounds: at least; one more, which is not counted, warms up.
        precision: of both.
        steps: of each measurement, of which a round has four; None: as many as suit the model on a CPU.

    Raises:
        SpecError: there is no such case, or transformers is not installed.
    """
    small = ("vit", "llama") if find_spec("transformers") else ("vit",)
    return [_measure(case_of(name), rounds, precision, steps) for name in names or small]


def _measure(case: Case, rounds: int, precision: Literal["fp32", "bf16"], steps: int | None) -> TrainingTimes:
    bench = _Bench(case, precision, steps or case.steps)
    bench.round(0)
    done: list[_Round] = []
    while len(done) < rounds or (len(done) < MOST * rounds and not bench.told(done).is_decided):
        done.append(bench.round(len(done)))
    return bench.told(done)


@dataclass(frozen=True)
class _Round:
    """Seconds by the clock and of the processor that both measurements of a loop took together."""

    walls: dict[str, float]
    processors: dict[str, float]
    peak_bytes: int | None


class _Bench:
    """Both loops on one model: what its memory is like, they share."""

    def __init__(self, case: Case, precision: Literal["fp32", "bf16"], steps: int) -> None:
        self.case, self.steps, self.device = case, steps, training_device()
        self.config = TrainingConfig(
            steps=steps, batch_size=case.batch_size, learning_rate=1e-4, precision=precision
        )
        self.model = case.make().to(self.device)

    def round(self, turn: int) -> _Round:
        """Two measurements of each loop."""
        order = ("ours", "bare", "bare", "ours") if turn % 2 else ("bare", "ours", "ours", "bare")
        walls, processors, peaks = dict.fromkeys(order, 0.0), dict.fromkeys(order, 0.0), []
        for name in order:
            wall_s, processor_s, peak_bytes = self._timed(self._bare if name == "bare" else self._ours)
            walls[name] += wall_s
            processors[name] += processor_s
            peaks += [peak_bytes] if name == "ours" else []
        return _Round(walls, processors, max(peaks) if self.device.type == "cuda" else None)

    def told(self, rounds: Sequence[_Round]) -> TrainingTimes:
        """What the rounds say together."""
        ratios = [one.walls["ours"] / one.walls["bare"] for one in rounds]
        return TrainingTimes(
            self.case.name,
            torch.cuda.get_device_name()
            if self.device.type == "cuda"
            else f"cpu, {torch.get_num_threads()} threads",
            self.config.precision,
            sum(parameter.numel() for parameter in self.model.parameters()),
            self.case.batch_size,
            len(rounds),
            median(one.walls["bare"] for one in rounds) / (2 * self.steps),
            median(one.walls["ours"] for one in rounds) / (2 * self.steps),
            median(ratios),
            *median_bounds(ratios),
            median(one.processors["ours"] / one.processors["bare"] for one in rounds),
            rounds[-1].peak_bytes,
        )

    def _bare(self) -> None:
        bare_loop(self.case, self.config, self.device, self.model)

    def _ours(self) -> None:
        train(self.model, self.case.lesson, self.config, generator=torch.Generator().manual_seed(0))

    def _timed(self, work: Callable[[], object]) -> tuple[float, float, int]:
        """Seconds by the clock and of the processor, and bytes; what a GPU has still to do is waited for."""
        self.model.zero_grad()
        self._wait()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        started, busy = perf_counter(), process_time()
        work()
        self._wait()
        wall_s, processor_s = perf_counter() - started, process_time() - busy
        return wall_s, processor_s, torch.cuda.max_memory_allocated() if self.device.type == "cuda" else 0

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def median_bounds(values: Sequence[float]) -> tuple[float, float]:
    """Between which the median of what the values are drawn from lies, with 95 % confidence or, of few, with less.

    Order statistics: the j-th least and the j-th most, with the largest j for which P(Binomial(n, 1/2) < j) is at most
    0.025; of fewer than 6 values the least and the most.
    """
    n, j = len(values), 1
    while sum(comb(n, i) for i in range(j + 1)) / 2**n <= TAIL:
        j += 1
    ordered = sorted(values)
    return ordered[j - 1], ordered[n - j]


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
