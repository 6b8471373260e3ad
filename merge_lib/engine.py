"""Merging checkpoints on disk, tensor by tensor: memory for one tensor of each checkpoint."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from math import prod
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from merge_lib import registry
from merge_lib.calibration.store import open_learned
from merge_lib.checkpoints import (
    NO_DIGEST,
    Checkpoint,
    CheckpointWriter,
    combine_digests,
    open_checkpoint,
    tensor_digest,
)
from merge_lib.checkpoints.digest import describe_digest
from merge_lib.compatibility import TensorSource
from merge_lib.errors import CheckpointCorruptError, SpecError
from merge_lib.files.folders import Source
from merge_lib.files.remembered import known_digests, remember
from merge_lib.ops.cores import one_core
from merge_lib.plan import Job, Plan
from merge_lib.spec import MergeSpec, told_beside


@dataclass(frozen=True)
class MergeReport:
    """A merge that lies on the disk, whole."""

    path: Path
    digest: str
    size_bytes: int
    elapsed_s: float  # its own work, and its share of reading
    excluded: tuple[str, ...] = ()  # names and patterns that were left as in the base


class DigestedCheckpoint:
    """An open checkpoint whose digest is taken while its tensors are read."""

    def __init__(self, reader: Checkpoint) -> None:
        self._reader = reader
        self._digests: dict[str, str] = {}
        self.label = reader.label
        self.names = reader.names

    @property
    def recorded_digest(self) -> str | None:
        """What the checkpoint says of itself, before it is read."""
        return self._reader.lineage.get("digest")

    @property
    def data_bytes(self) -> int:
        """Bytes of the tensors as they are stored."""
        return sum(prod(self.shape(name)) * self.dtype(name).itemsize for name in self.names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._reader.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        """Element type of a tensor."""
        return self._reader.dtype(name)

    def tensor(self, name: str) -> Tensor:
        """Read one tensor."""
        tensor = self._reader.tensor(name)
        if name not in self._digests:
            self._digests[name] = tensor_digest(tensor)
        return tensor

    def known_digest(self, name: str) -> str | None:
        """The digest of one tensor, if it has been read."""
        return self._digests.get(name)

    def digest(self) -> str:
        """The digest of the whole checkpoint; tensors that nobody asked for are read now.

        Raises:
            CheckpointCorruptError: the file is not what its own lineage says.
        """
        stored = self._stored()
        known = known_digests(stored)
        for name in self.names:
            if name in known:
                dtype, shape = self.dtype(name), self.shape(name)
                self._digests.setdefault(name, describe_digest(dtype, shape, known[name]))
            elif name not in self._digests:
                self.tensor(name)
        digest = combine_digests(self._digests)
        check_recorded(self.label, digest, self._reader.lineage)
        remember(stored, {name: self._digests[name].rpartition(" ")[2] for name in stored.tensors})
        return digest

    def _stored(self) -> Source:
        """The tensors that are shown as they lie in files."""
        reader = self._reader
        places = {name: place for name in self.names if (place := reader.location(name)) is not None}
        return Source(self.label, reader.path, reader.shards, places, states=reader.states)


def check_recorded(label: str, digest: str, lineage: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that is not what its own lineage says.

    Raises:
        CheckpointCorruptError: names both digests.
    """
    recorded = lineage.get("digest", digest)
    if digest != recorded:
        raise CheckpointCorruptError(
            f"Checkpoint {label} has the digest {digest}, but its lineage recorded {recorded}. "
            "It changed after it was written. Make or fetch it again."
        )


def merge_checkpoints(spec: MergeSpec, out: Path, *, lineage: Mapping[str, Any] | None = None) -> MergeReport:
    """Merge checkpoints into one file, in torch.

    Args:
        spec: what to merge and how.
        out: where to; an existing file is replaced once the merge is whole.
        lineage: more JSON values for the file's lineage, beside what the merge itself says.

    Returns:
        Where the merge is and what it is.

    Raises:
        CheckpointError: a checkpoint is missing or damaged, does not match the others, or cannot be written.
        MethodInputError: an expert or the result is not finite.
    """
    return merge_in_torch([spec], [out], [lineage or {}])[0]


def merge_in_torch(
    specs: Sequence[MergeSpec], outs: Sequence[Path], lineages: Sequence[Mapping[str, Any]]
) -> list[MergeReport]:
    """As `merge_many`, which takes this route where there are no kernels."""
    started = perf_counter()
    check_paths(specs, outs)
    paths = list(dict.fromkeys(path for spec in specs for path in spec.experts))
    with ExitStack() as stack:
        base = open_digested(stack, specs[0].base)
        experts = {path: open_digested(stack, path, specs[0].base) for path in paths}
        plan = Plan([job_of(spec, paths) for spec in specs], base, list(experts.values()))
        drafts = [
            merge_lineage(spec, extra, NO_DIGEST, [NO_DIGEST] * len(spec.experts))
            for spec, extra in zip(specs, lineages, strict=True)
        ]
        writers = [
            stack.enter_context(CheckpointWriter(out, layout, draft))
            for out, layout, draft in zip(outs, plan.layouts, drafts, strict=True)
        ]
        for index, name, tensor in run_plan(plan):
            writers[index].write(name, tensor)
        finals = [
            merge_lineage(
                spec, extra, base and base.digest(), [experts[path].digest() for path in spec.experts]
            )
            for spec, extra in zip(specs, lineages, strict=True)
        ]
        written = [writer.finish(final) for writer, final in zip(writers, finals, strict=True)]
    shared = max(perf_counter() - started - sum(plan.elapsed_s), 0.0) / len(specs)
    return [
        MergeReport(file.path, file.digest, file.size_bytes, own + shared, spec.exclude)
        for file, own, spec in zip(written, plan.elapsed_s, specs, strict=True)
    ]


def run_jobs(
    jobs: Sequence[Job], base: TensorSource | None, experts: Sequence[TensorSource]
) -> Iterator[tuple[int, str, Tensor]]:
    """Check, then merge: (place of the job, tensor name, tensor), names sorted."""
    yield from run_plan(Plan(jobs, base, experts))


def run_plan(plan: Plan) -> Iterator[tuple[int, str, Tensor]]:
    """First the passes that gather statistics, then the one that merges."""
    with one_core() if plan.works_on_rows else nullcontext():
        plan.gather_statistics()
        for name in plan.names:
            loaded = plan.load(name)
            for index, layout in enumerate(plan.layouts):
                if name in layout:
                    yield index, name, plan.result(index, loaded)


def job_of(spec: MergeSpec, paths: Sequence[Path]) -> Job:
    """The merge among the experts at these paths."""
    places = tuple(paths.index(path) for path in spec.experts)
    dtype = None if spec.dtype is None else getattr(torch, spec.dtype)
    return Job(
        registry.get(spec.method),
        spec.params,
        spec.seed,
        places,
        spec.exclude,
        dtype,
        learned=open_learned(spec.method, spec.observations, spec.fitted),
        layer_scales=spec.layer_scales,
        equalise=spec.equalise,
    )


def open_digested(stack: ExitStack, path: Path | None, base: Path | None = None) -> DigestedCheckpoint | None:
    """Open a checkpoint until the stack closes."""
    if path is None:
        return None
    return DigestedCheckpoint(stack.enter_context(open_checkpoint(path, base=base)))


def merge_lineage(
    spec: MergeSpec, extra: Mapping[str, Any], base: str | None, experts: Sequence[str]
) -> dict[str, Any]:
    """What a merged file says of itself; a digest that is not known yet is `NO_DIGEST`."""
    return {
        **extra,
        "kind": "merge",
        "method": spec.method,
        "params": spec.params,
        "seed": spec.seed,
        "exclude": list(spec.exclude),
        "base": None if spec.base is None else base,
        **({} if spec.dtype is None else {"dtype": spec.dtype}),
        **told_beside(spec),
        "experts": list(experts),
    }


def check_paths(specs: Sequence[MergeSpec], outs: Sequence[Path]) -> None:
    """Refuse runs whose files would overwrite one another.

    Raises:
        SpecError: they would, or bases or numbers of merges and outputs differ.
    """
    if not specs or len(specs) != len(outs):
        raise SpecError(
            f"{len(specs)} merges and {len(outs)} outputs were given. Give one output for each merge."
        )
    if len({spec.base for spec in specs}) > 1:
        raise SpecError(
            "The merges of one run have different bases. Run those with another base by themselves."
        )
    inputs = {path.resolve() for spec in specs for path in (spec.base, *spec.experts) if path is not None}
    resolved = [Path(out).resolve() for out in outs]
    clashes = sorted(str(out) for out in resolved if inputs & {out, *out.parents} or resolved.count(out) > 1)
    if clashes:
        raise SpecError(
            f"The output {clashes[0]} is an input or another output of the same run, or lies in an input. "
            "Give every merge its own path."
        )
