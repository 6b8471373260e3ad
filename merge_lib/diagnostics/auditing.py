"""The audit of a merge: what it kept of each expert, tensor by tensor, and what the method says it removed."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from merge_lib import registry
from merge_lib.arithmetic import Inputs, check_finite
from merge_lib.checkpoints import Checkpoint, open_checkpoint
from merge_lib.compatibility import check_compatible, match_excluded
from merge_lib.diagnostics.measures import OF_THE_MERGE, measures, tally
from merge_lib.diagnostics.table import Line, make_table
from merge_lib.engine import job_of
from merge_lib.errors import MethodInputError, SpecError
from merge_lib.layers import Layer
from merge_lib.ops.cores import one_core
from merge_lib.ops.lengths import Lengths
from merge_lib.plan import Job, LoadedTensor, Plan
from merge_lib.spec import MergeSpec
from merge_lib.trail import TrailBook

SHARED = -1  # the parameter `task` of what the tasks of a method that decodes share
WHOLE = -1  # the column `expert` of what is said of the merge as a whole
Notes = dict[str, dict[int, float]]  # quantity -> expert or WHOLE -> value


def audit(
    spec: MergeSpec,
    merged: Path | None = None,
    *,
    label: str | None = None,
    tasks: Sequence[str] = (),
    progress: Callable[[int], None] = lambda _bytes: None,
) -> pa.Table:
    """What a merge kept and removed of each expert's task vector.

    The merge is made again, in torch, with a trail that takes the method's notes; Δ is what it stores, less the
    base, so that layer scales and rounding count. A method that gives a model for each task is measured by each
    task's own Δ_t, unless its parameter `task` says which is meant. Memory holds one tensor of each checkpoint, as in
    a merge, and pieces of 2 MB.

    Args:
        spec: the merge; it needs a base.
        merged: a checkpoint to audit in place of the merge made again; then there are no notes.
        label: what the table calls the merge; None: as its method.
        tasks: a name for each expert; none: from the file names.
        progress: told the bytes of each tensor, of all checkpoints, when it is done.

    Returns:
        The table of `merge_lib.diagnostics.table.SCHEMA`: measures as in `measures.MEASURES`, undefined ones left out,
        and notes. Floating tensors only. A tensor that is left as in the base has the note "excluded".

    Raises:
        SpecError: there is no base, or the numbers of tasks and experts differ.
        CheckpointError: a checkpoint is missing or damaged, or does not match the others.
        MethodInputError: an expert or the merge is not finite, or a note fits no expert.
    """
    names = name_experts(spec, tasks)
    with ExitStack() as stack:
        audited = _Audited.open(stack, spec, merged)
        head = (spec.method, label or spec.method)
        with one_core() if audited.plan.works_on_rows else nullcontext():
            return make_table([(*head, *line) for line in audited.lines(names, progress)])


@dataclass(frozen=True)
class Compared:
    """One tensor of a merge beside those of its experts.

    Attributes:
        stored: the merged tensor as it is stored; of a method that gives a model for each task, one for each.
        layer: what is known of it; None where it is no floating tensor that all have alike.
        task_vectors: [n, *shape], in the dtype of the merge's arithmetic; None likewise.
        changes: [m, *shape], Δ; None likewise.
        lengths: of the task vectors, where the merge equalised them.
    """

    name: str
    stored: tuple[Tensor, ...]
    layer: Layer | None = None
    task_vectors: Tensor | None = None
    changes: Tensor | None = None
    lengths: Lengths | None = None


def compared(
    spec: MergeSpec, merged: Path | None = None, progress: Callable[[int], None] = lambda _bytes: None
) -> Iterator[Compared]:
    """Every tensor of a merge beside its experts; arguments and errors are those of `audit`."""
    name_experts(spec, ())
    with ExitStack() as stack:
        audited = _Audited.open(stack, spec, merged)
        with one_core() if audited.plan.works_on_rows else nullcontext():
            yield from audited.compared(progress)


class _Audited:
    """An open merge."""

    def __init__(
        self, spec: MergeSpec, plan: Plan, books: Sequence[TrailBook], merged: Checkpoint | None
    ) -> None:
        self.spec, self.plan, self.books, self.merged = spec, plan, books, merged

    @classmethod
    def open(cls, stack: ExitStack, spec: MergeSpec, merged: Path | None) -> "_Audited":
        """Open and check all checkpoints."""
        paths = list(dict.fromkeys(spec.experts))
        opened = {path: stack.enter_context(open_checkpoint(path, base=spec.base)) for path in paths}
        base = stack.enter_context(open_checkpoint(spec.base))  # type: ignore[arg-type]
        made = None if merged is None else stack.enter_context(open_checkpoint(merged, base=spec.base))
        if made is not None:
            excluded = match_excluded(spec.exclude, sorted({*base.names, *made.names}))
            check_compatible(base, [made], tuple(excluded), dtype_is_stated=True)
        jobs = _jobs(spec, paths) if made is None else [job_of(spec, paths)]
        return cls(spec, Plan(jobs, base, list(opened.values())), [job.trail for job in jobs], made)  # type: ignore[misc]

    def lines(self, tasks: Sequence[str], progress: Callable[[int], None]) -> Iterator[Line]:
        """All lines, tensor by tensor, without the merge's name."""
        for one in self.compared(progress):
            if one.layer is not None:
                yield from self._tensor_lines(one, one.layer, tasks)

    def compared(self, progress: Callable[[int], None]) -> Iterator[Compared]:
        """All tensors."""
        if self.merged is None:
            self.plan.gather_statistics()
        for name in self.plan.names:
            loaded = self.plan.load(name)
            stored = self._stored(loaded)
            if self._is_comparable(name):
                given = self.plan.inputs(0, loaded)
                own = replace(given, lengths=None)  # each task vector as long as it is
                changes = _changes(stored, own)
                yield Compared(name, stored, own.layer, own.task_vectors, changes, given.lengths)
            else:
                yield Compared(name, stored)
            progress(self._stored_bytes(loaded))

    def _tensor_lines(self, one: Compared, layer: Layer, tasks: Sequence[str]) -> Iterator[Line]:
        found = measures(tally(one.task_vectors, one.changes))  # type: ignore[arg-type]
        notes = self._notes(one.name, one.lengths)
        place = (layer.name, layer.role, layer.place)
        for quantity, values in found.items():
            is_whole = quantity == "entries" or (quantity in OF_THE_MERGE and len(values) == 1)
            for expert, value in enumerate(values, WHOLE if is_whole else 0):
                yield (*place, expert, _task(tasks, expert), "measure", quantity, value)  # type: ignore[misc]
        for quantity, by_expert in notes.items():
            for expert, value in by_expert.items():
                yield (*place, expert, _task(tasks, expert), "note", quantity, value)  # type: ignore[misc]

    def _stored(self, loaded: LoadedTensor) -> tuple[Tensor, ...]:
        """The merged tensor, or that of each task."""
        if self.merged is None:
            return tuple(self.plan.result(index, loaded) for index in range(len(self.plan.jobs)))
        stored = self.merged.tensor(loaded.name)
        if stored.is_floating_point():
            check_finite(loaded.name, stored, self.merged.label)
        return (stored,)

    def _notes(self, name: str, lengths: Lengths | None) -> Notes:
        if self.plan.is_excluded(0, name):
            return {"excluded": {WHOLE: 1.0}}
        if self.merged is not None:
            return {}
        notes = self._method_notes(name)
        scale = self.spec.params.get("scale")
        if isinstance(scale, int | float):
            notes.setdefault("scale", {WHOLE: float(scale)})
        if (factor := self.plan.factor(0, name)) is not None:
            notes["layer scale"] = {WHOLE: factor}
        if lengths is not None:
            notes["norm of the whole task vector"] = dict(enumerate(lengths.norms))
            notes["factor that equalises norms"] = dict(enumerate(lengths.factors))
        return notes

    def _method_notes(self, name: str) -> Notes:
        """What the method said of a tensor; of models for each task what was said for that task."""
        count = len(self.spec.experts)
        steps = count if registry.get(self.spec.method).kind == "continual" else 1
        pages = [book.take(name, steps) for book in self.books]
        read = [_read(self.spec.method, name, some or pages[0], count, by_step=steps > 1) for some in pages]
        if len(read) == 1:
            return read[0]
        notes: Notes = {}
        for place, found in enumerate(read):  # one that was read from the fold of the first has no pages
            for quantity, by_expert in found.items():
                value = by_expert.get(place, by_expert.get(WHOLE))
                if value is not None:
                    notes.setdefault(quantity, {})[place] = value
        return notes

    def _is_comparable(self, name: str) -> bool:
        """Whether it is a floating tensor that all experts have alike; excluded ones they need not."""
        dtype, shape = self.plan.layouts[0][name]
        if not dtype.is_floating_point:
            return False
        experts = self.plan.load(name).experts
        return all(name in one.names and tuple(one.shape(name)) == tuple(shape) for one in experts)

    def _stored_bytes(self, loaded: LoadedTensor) -> int:
        dtype, shape = self.plan.layouts[0][loaded.name]
        return math.prod(shape) * dtype.itemsize * (1 + len(loaded.experts))


def _changes(stored: Sequence[Tensor], inputs: Inputs) -> Tensor:
    """[m, *shape], Δ as it is stored."""
    return torch.stack([one.to(inputs.dtype) for one in stored]).sub_(inputs.wide_base)


def _read(method: str, tensor: str, pages: Sequence, count: int, *, by_step: bool) -> Notes:  # type: ignore[type-arg]
    """The notes of all pages; a single number of a step is said of the expert that was folded in."""
    notes: Notes = {}
    for step, page in enumerate(pages, count - len(pages)):
        seen = step + 1 if by_step else count
        for quantity, values in page.notes.items():
            if len(values) == 1:
                notes.setdefault(quantity, {})[step if by_step else WHOLE] = values[0]
            elif len(values) == seen:
                notes.setdefault(quantity, {}).update(enumerate(values))
            else:
                raise MethodInputError(
                    f"Method '{method}' noted {len(values)} values of '{quantity}' for tensor '{tensor}' of {seen} "
                    "experts. A note has one value, or one for each expert; correct the method."
                )
    return notes


def _jobs(spec: MergeSpec, paths: Sequence[Path]) -> list[Job]:
    """The merge, or the model of each task where the method gives one, each with a book of its own."""
    job = job_of(spec, paths)
    tasks = range(len(spec.experts)) if job.method.decodes and job.params.get("task") == SHARED else ()
    each = [replace(job, params={**job.params, "task": task}) for task in tasks]
    return [replace(one, trail=TrailBook()) for one in each or [job]]


def _task(tasks: Sequence[str], expert: int) -> str:
    return "" if expert == WHOLE else tasks[expert]


def name_experts(spec: MergeSpec, tasks: Sequence[str]) -> list[str]:
    """A name for each expert."""
    if spec.base is None:
        raise SpecError(
            "An audit measures what a merge kept of each task vector (expert − base), but no base is given. "
            "Give the `base`, even if the method does not need it."
        )
    if tasks and len(tasks) != len(spec.experts):
        raise SpecError(
            f"{len(tasks)} tasks were named for {len(spec.experts)} experts. Name one for each expert, in order."
        )
    if tasks:
        return list(tasks)
    stems = [path.stem for path in spec.experts]
    if len(set(stems)) == len(stems):
        return stems
    return [f"{place} {path.parent.name}/{path.name}" for place, path in enumerate(spec.experts)]
