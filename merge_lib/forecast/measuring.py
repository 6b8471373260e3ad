"""Features of many merges of the same experts, from one reading, tensor by tensor; no merge is kept."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from merge_lib.arithmetic import arithmetic_dtype
from merge_lib.checkpoints import open_checkpoint
from merge_lib.compatibility import TensorSource, check_compatible
from merge_lib.diagnostics.auditing import SHARED
from merge_lib.engine import job_of
from merge_lib.errors import MethodInputError, SpecError
from merge_lib.forecast.features import Features, feature_rows
from merge_lib.forecast.regions import Part, parts_of
from merge_lib.forecast.sums import MergeSums, PairSums, merge_sums, pair_sums
from merge_lib.layers import describe_layers
from merge_lib.ops.cores import one_core
from merge_lib.plan import Job, LoadedTensor, Plan
from merge_lib.spec import MergeSpec


@dataclass(frozen=True)
class Candidate:
    """A merge that is thought of.

    Attributes:
        spec: base, experts and, where nothing else makes it, the merge.
        made: gives a tensor of the merge by its name, where the spec does not say how it is made.
        method: what it is called, where that is not the spec's.
    """

    label: str
    spec: MergeSpec
    made: Callable[[str], Tensor] | None = None
    method: str = ""

    @property
    def named(self) -> str:
        """Its method's name."""
        return self.method or self.spec.method

    @property
    def models(self) -> list[MergeSpec]:
        """What is merged: one model, or one for each task of a method that gives those."""
        if self.made is not None:
            return []
        if self.spec.params.get("task") != SHARED:
            return [self.spec]
        fields = {name: getattr(self.spec, name) for name in MergeSpec.model_fields}
        return [
            MergeSpec(**{**fields, "params": {**self.spec.params, "task": task}})
            for task in range(len(self.spec.experts))
        ]


@dataclass(frozen=True)
class Measured:
    """What is known of a candidate.

    Attributes:
        rows: the features of each task, in expert order; empty where the method refused.
        refusal: why.
    """

    label: str
    method: str
    rows: tuple[Features, ...] = ()
    refusal: str = ""


@dataclass
class _Merge:
    """One candidate's place in the plan, and what was summed of it."""

    candidate: Candidate
    jobs: range
    sums: dict[Part, MergeSums] = field(default_factory=dict)


def measure(
    candidates: Sequence[Candidate], *, progress: Callable[[int], None] = lambda _bytes: None
) -> list[Measured]:
    """The features of each candidate.

    Base and experts are read once, and once more for each pass that a method makes over the model. Memory holds one
    tensor of each checkpoint and one merge of it.

    Args:
        candidates: all of the same base and experts, in the same order.
        progress: told the bytes of each tensor, of all checkpoints, when it is done.

    Returns:
        In the order given. A method that cannot merge these experts has a refusal in place of rows.

    Raises:
        SpecError: there is no candidate, no base, or base and experts are not the same for all.
        CheckpointError: a checkpoint is missing or damaged, or does not match the others.
    """
    _shared_spec(candidates)
    try:
        return _measure_together(candidates, progress)
    except MethodInputError as refused:
        if len(candidates) == 1:
            return [Measured(candidates[0].label, candidates[0].named, refusal=str(refused))]
    return [measure([one], progress=progress)[0] for one in candidates]


def _measure_together(candidates: Sequence[Candidate], progress: Callable[[int], None]) -> list[Measured]:
    spec = _shared_spec(candidates)
    with ExitStack() as stack:
        experts = [stack.enter_context(open_checkpoint(path, base=spec.base)) for path in spec.experts]
        base = stack.enter_context(open_checkpoint(spec.base))  # type: ignore[arg-type]
        merges = _places(candidates)
        jobs = [_job(spec) for merge in merges for spec in merge.candidate.models]
        if not jobs:  # else the plan has checked
            check_compatible(base, experts, (), dtype_is_stated=True)
        measuring = _Measuring(Plan(jobs, base, experts), merges, base)
        with one_core() if measuring.plan.works_on_rows else nullcontext():
            measuring.run(progress)
        return measuring.results()


class _Measuring:
    """The pass over all tensors."""

    def __init__(self, plan: Plan, merges: Sequence[_Merge], base: TensorSource) -> None:
        self.plan, self.merges, self.base = plan, merges, base
        self.layers = describe_layers({name: tuple(base.shape(name)) for name in base.names})
        self.pairs: dict[Part, PairSums] = {}
        self.dtype = arithmetic_dtype([base])

    def run(self, progress: Callable[[int], None]) -> None:
        """Add every floating tensor that the experts have alike."""
        self.plan.gather_statistics()
        for name in self.base.names:
            loaded = self.plan.load(name)
            if self.base.dtype(name).is_floating_point and self._is_whole(loaded):
                self._add(loaded)
            progress(_stored_bytes(self.base, name) * (1 + len(loaded.experts)))

    def _is_whole(self, loaded: LoadedTensor) -> bool:
        """Whether all experts have the tensor in the base's shape; what they lack is excluded."""
        shape = tuple(self.base.shape(loaded.name))
        return all(
            loaded.name in one.names and tuple(one.shape(loaded.name)) == shape for one in loaded.experts
        )

    def _add(self, loaded: LoadedTensor) -> None:
        places = tuple(range(len(loaded.experts)))
        layer = self.layers[loaded.name]
        inputs = loaded.inputs(layer, places, self.dtype)
        if inputs.task_vectors.numel() == 0:
            return
        parts, vectors, base = parts_of(layer), inputs.task_vectors, inputs.wide_base
        _add_to(self.pairs, parts, pair_sums(vectors, base))  # type: ignore[arg-type]
        for merge in self.merges:
            changes = self._changes(merge, loaded, base)  # type: ignore[arg-type]
            _add_to(merge.sums, parts, merge_sums(vectors, changes, base))  # type: ignore[arg-type]

    def _changes(self, merge: _Merge, loaded: LoadedTensor, base: Tensor) -> Tensor:
        """[m, *shape], Δ as it is stored."""
        made = merge.candidate.made
        stored = (
            [self.plan.result(index, loaded) for index in merge.jobs] if made is None else [made(loaded.name)]
        )
        return torch.stack([one.to(base.dtype) for one in stored]).sub_(base)

    def results(self) -> list[Measured]:
        """The features of every merge."""
        return [
            Measured(
                merge.candidate.label,
                merge.candidate.named,
                tuple(feature_rows(self.pairs, merge.sums)),
            )
            for merge in self.merges
        ]


def _add_to(sums: dict, parts: Sequence[Part], found: PairSums | MergeSums) -> None:  # type: ignore[type-arg]
    for part in parts:
        sums[part] = sums[part] + found if part in sums else found


def _shared_spec(candidates: Sequence[Candidate]) -> MergeSpec:
    """One that all agree with in base and experts."""
    if not candidates:
        raise SpecError("A forecast needs at least one merge to look at, but none was given.")
    first = candidates[0].spec
    if first.base is None:
        raise SpecError(
            "A forecast looks at task vectors (expert − base), but no base is given. Give the `base`, even if the "
            "method does not need it."
        )
    others = [one.label for one in candidates if _places_of(one.spec) != _places_of(first)]
    if others:
        raise SpecError(
            f"{', '.join(others)} have another base or other experts than '{candidates[0].label}'. A forecast compares "
            "merges of the same experts in the same order; ask for the others by themselves."
        )
    return first


def _places_of(spec: MergeSpec) -> list[Path]:
    """Base and experts, wherever they are named from."""
    return [Path(path).resolve() for path in (spec.base, *spec.experts) if path is not None]


def _places(candidates: Sequence[Candidate]) -> list[_Merge]:
    found, start = [], 0
    for candidate in candidates:
        count = len(candidate.models)
        found.append(_Merge(candidate, range(start, start + count)))
        start += count
    return found


def _job(spec: MergeSpec) -> Job:
    """One merge of all experts that the plan has."""
    job = job_of(spec, list(dict.fromkeys(spec.experts)))
    return replace(job, experts=tuple(range(len(spec.experts))))


def _stored_bytes(source: TensorSource, name: str) -> int:
    return torch.Size(source.shape(name)).numel() * source.dtype(name).itemsize


def task_names(experts: Sequence[Path]) -> list[str]:
    """A name for each expert: its file's or folder's, numbered where two are alike."""
    stems = [path.stem or str(path) for path in experts]
    if len(set(stems)) == len(stems):
        return stems
    return [f"{place} {path.parent.name}/{path.name}" for place, path in enumerate(experts)]
