"""What a run of merges over shared checkpoints will do: checked whole, before any tensor is read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from merge_lib.arithmetic import (
    Inputs,
    Merge,
    accepted,
    arithmetic_dtype,
    check_finite,
    copy_equal,
)
from merge_lib.compatibility import TensorSource, check_compatible, match_excluded
from merge_lib.equalising import Equalise
from merge_lib.folding import Folded
from merge_lib.layer_scales import LayerScales
from merge_lib.layers import Layer, describe_layers
from merge_lib.learned import NOTHING_LEARNED, Learned
from merge_lib.ops.lengths import Lengths, squared_norms
from merge_lib.ops.masses import count_moves, mean_share
from merge_lib.registry import MethodInfo
from merge_lib.trail import NO_TRAIL, Trail


@dataclass(frozen=True)
class Job:
    """One merge among those that share a base and experts."""

    method: MethodInfo
    params: dict[str, Any]
    seed: int
    experts: tuple[int, ...]  # places among the experts of the run
    exclude: tuple[str, ...]
    dtype: torch.dtype | None = None  # of floating tensors in the result; None: as in the base, else expert 0
    learned: Learned = NOTHING_LEARNED
    layer_scales: LayerScales | None = None
    equalise: Equalise | None = None
    trail: Trail = NO_TRAIL


class Plan:
    """Several merges that read each tensor of base and experts once a pass.

    Attributes:
        layouts: for each job dtype and shape of every tensor of its result.
        elapsed_s: for each job the seconds spent on it alone.
    """

    def __init__(
        self, jobs: Sequence[Job], base: TensorSource | None, experts: Sequence[TensorSource]
    ) -> None:
        self.jobs = tuple(jobs)
        self.elapsed_s = [0.0] * len(self.jobs)
        self._base = base
        self._experts = tuple(experts)
        self._excluded = [self._excluded_names(job) for job in self.jobs]
        for job, excluded in zip(self.jobs, self._excluded, strict=True):
            own = [experts[place] for place in job.experts]
            check_compatible(base, own, tuple(excluded), dtype_is_stated=job.dtype is not None)
        self.layouts = [
            self._layout(job, excluded) for job, excluded in zip(self.jobs, self._excluded, strict=True)
        ]
        self.names = tuple(sorted({name for layout in self.layouts for name in layout}))
        self._layers = [
            describe_layers({name: shape for name, (_, shape) in layout.items()}) for layout in self.layouts
        ]
        for job, layers in zip(self.jobs, self._layers, strict=True):
            if job.layer_scales is not None:
                job.layer_scales.check(layers)
        self._shallow = [
            1.0 if job.layer_scales is None else job.layer_scales.stated_shallow for job in self.jobs
        ]
        self._lengths: list[Lengths | None] = [None] * len(self.jobs)
        self._merges = [Merge(job.method, job.params, job.seed, job.learned, job.trail) for job in self.jobs]
        self._dtypes = [self._arithmetic_dtype(job) for job in self.jobs]
        self._statistics = [
            merge.begin(len(job.experts), dtype)
            for merge, job, dtype in zip(self._merges, self.jobs, self._dtypes, strict=True)
        ]

    @property
    def works_on_rows(self) -> bool:
        """Some job's function needs more than an entry at a time, so it may multiply or decompose matrices."""
        return any(job.method.works_on != "entry" for job in self.jobs)

    def gather_statistics(self) -> None:
        """Run passes over all tensors until every job knows what it must know of the whole model."""
        self._measure_lengths()
        for index, merge in enumerate(self._merges):
            if merge.method.implementation.shared is not None and self._statistics[index] is None:
                self._statistics[index] = self._folded(index)
        while waiting := [
            i for i, state in enumerate(self._statistics) if state is not None and not state.complete
        ]:
            for name in self.names:
                loaded = self.load(name)
                for index in waiting:
                    self._fold(index, loaded)
            for index in waiting:
                self._statistics[index] = self._merges[index].close(self._statistics[index])

        for index, job in enumerate(self.jobs):
            if job.layer_scales is not None and job.layer_scales.is_automatic:
                self._shallow[index] = self._automatic_shallow(index)

    def load(self, name: str) -> "LoadedTensor":
        """One tensor, of which each checkpoint's copy is read when it is first asked for."""
        return LoadedTensor(name, self._base, self._experts)

    def result(self, index: int, loaded: "LoadedTensor") -> Tensor:
        """One tensor of one job's result."""
        started = perf_counter()
        job, name = self.jobs[index], loaded.name
        dtype = self.layouts[index][name][0]
        is_copied = name in self._excluded[index] or not (dtype.is_floating_point or job.experts)
        if is_copied:
            return self._base.tensor(name).to(dtype, copy=True)  # type: ignore[union-attr]
        if not dtype.is_floating_point:
            labels = [self._experts[place].label for place in job.experts]
            return copy_equal(name, [loaded.expert(place) for place in job.experts], labels)
        inputs = self.inputs(index, loaded)
        merged = self._merges[index].apply(inputs, self._statistics[index], dtype, self.factor(index, name))
        self.elapsed_s[index] += perf_counter() - started
        return merged

    def _fold(self, index: int, loaded: "LoadedTensor") -> None:
        if not self.is_merged(index, loaded.name):
            return
        started = perf_counter()
        inputs = self.inputs(index, loaded)
        self._statistics[index] = self._merges[index].fold(self._statistics[index], inputs)
        self.elapsed_s[index] += perf_counter() - started

    def _measure_lengths(self) -> None:
        """The norms of task vectors that are to be of one length, all from one pass."""
        squares = {index: [] for index, job in enumerate(self.jobs) if job.equalise is not None}
        for name in self.names if squares else ():
            loaded = self.load(name)
            for index, found in squares.items():
                if self.is_merged(index, name):
                    found.append(self._squared_norms(index, loaded))
        for index, found in squares.items():
            self._lengths[index] = Lengths.of_squares(found, len(self.jobs[index].experts))

    def _squared_norms(self, index: int, loaded: "LoadedTensor") -> tuple[float, ...]:
        started = perf_counter()
        found = squared_norms(self.inputs(index, loaded).task_vectors)
        self.elapsed_s[index] += perf_counter() - started
        return found

    def _folded(self, index: int) -> Folded:
        """All experts of a continual method, folded one after another, once for jobs that only read otherwise."""
        for earlier in range(index):
            if self._folds_alike(earlier, index):
                return replace(self._statistics[earlier], merge=self._merges[index])
        folded = Folded.begin(self._merges[index])
        started = perf_counter()
        for place in self.jobs[index].experts:
            folded.add(self.each_inputs(index, (place,)))
        self.elapsed_s[index] += perf_counter() - started
        return folded

    def _folds_alike(self, one: int, other: int) -> bool:
        """Whether the steps of two jobs are the same."""
        jobs = [self.jobs[index] for index in (one, other)]
        step = jobs[0].method.implementation.step
        told = [
            (
                job.method,
                job.seed,
                job.experts,
                job.exclude,
                job.equalise,
                step and accepted(step, job.params),
            )
            for job in jobs
        ]
        return told[0] == told[1]

    def factor(self, index: int, name: str) -> float | None:
        """What layer scales multiply a job's merged task vector by, once statistics are gathered."""
        scales = self.jobs[index].layer_scales
        return scales and scales.factor(self._layers[index][name], self._shallow[index])

    def _automatic_shallow(self, index: int) -> float:
        """‖Σ_t τ_t‖₁ / (T·‖Δ‖₁) over all tensors that are merged; 1 / T where nothing moved."""
        experts = len(self.jobs[index].experts)
        found: list[tuple[Tensor, Tensor]] = []
        for name in self.merged_names(index):
            inputs = self.inputs(index, self.load(name))
            moved = self._merges[index].task_vector(inputs, self._statistics[index])
            found.append(count_moves(inputs.task_vectors, moved))
        if not found:
            return 1.0 / experts
        return mean_share(*(torch.stack(counts).sum(0) for counts in zip(*found, strict=True)), experts)

    def each_inputs(self, index: int, places: tuple[int, ...]) -> Iterator[Inputs]:
        """All tensors that one job merges, of some of the run's experts."""
        layers, dtype, lengths = self._layers[index], self._dtypes[index], self._lengths[index]
        own = lengths and lengths.of_rows([self.jobs[index].experts.index(place) for place in places])
        for name in self.merged_names(index):
            yield self.load(name).inputs(layers[name], places, dtype, own)

    def inputs(self, index: int, loaded: "LoadedTensor") -> Inputs:
        """What one job's merge of a tensor works on."""
        layer, experts = self._layers[index][loaded.name], self.jobs[index].experts
        return loaded.inputs(layer, experts, self._dtypes[index], self._lengths[index])

    def merged_names(self, index: int) -> Iterator[str]:
        """Names of the tensors that a job computes."""
        return (name for name in self.names if self.is_merged(index, name))

    def arithmetic_dtype(self, index: int) -> torch.dtype:
        """Of one job."""
        return self._dtypes[index]

    def merge(self, index: int) -> Merge:
        """One job's method with its parameters."""
        return self._merges[index]

    def is_excluded(self, index: int, name: str) -> bool:
        """Whether a job leaves the tensor as in the base."""
        return name in self._excluded[index]

    def is_merged(self, index: int, name: str) -> bool:
        """Whether a job computes the tensor, rather than copying it."""
        layout = self.layouts[index]
        return name in layout and name not in self._excluded[index] and layout[name][0].is_floating_point

    def _sources(self, job: Job) -> list[TensorSource]:
        """The job's checkpoints, the one that the result looks like first."""
        experts = [self._experts[place] for place in job.experts]
        return experts if self._base is None else [self._base, *experts]

    def _excluded_names(self, job: Job) -> frozenset[str]:
        known = sorted({name for source in self._sources(job) for name in source.names})
        return frozenset(match_excluded(job.exclude, known))

    def _layout(self, job: Job, excluded: frozenset[str]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        like = self._sources(job)[0]
        layout = {}
        for name in like.names:
            dtype = like.dtype(name)
            if job.dtype is not None and dtype.is_floating_point and name not in excluded:
                dtype = job.dtype
            layout[name] = (dtype, like.shape(name))
        return layout

    def _arithmetic_dtype(self, job: Job) -> torch.dtype:
        return arithmetic_dtype(self._sources(job))


@dataclass
class LoadedTensor:
    """One tensor of all checkpoints; read, checked and stacked at most once."""

    name: str
    base: TensorSource | None
    experts: tuple[TensorSource, ...]
    _read: dict[int, Tensor] = field(default_factory=dict)
    _inputs: dict[tuple[tuple[int, ...], torch.dtype, Lengths | None], Inputs] = field(default_factory=dict)

    def expert(self, place: int) -> Tensor:
        """The tensor of one expert; −1 is the base."""
        if place not in self._read:
            source = self.base if place < 0 else self.experts[place]
            tensor = source.tensor(self.name)  # type: ignore[union-attr]
            if tensor.is_floating_point():
                check_finite(self.name, tensor, source.label)  # type: ignore[union-attr]
            self._read[place] = tensor
        return self._read[place]

    def inputs(
        self, layer: Layer, places: tuple[int, ...], dtype: torch.dtype, lengths: Lengths | None = None
    ) -> Inputs:
        """What a merge of these experts works on."""
        key = (places, dtype, lengths)
        if key not in self._inputs:
            base = None if self.base is None else self.expert(-1)
            experts = tuple(self.expert(place) for place in places)
            self._inputs[key] = Inputs(layer, base, experts, dtype, lengths)
        return self._inputs[key]
