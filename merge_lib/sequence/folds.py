"""Folding experts into a state file as they arrive, and reading merges from it.

Memory holds one tensor of each checkpoint and of the state. Folded one by one, on whatever machines, experts give
the same bytes as merged all at once.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from torch import Tensor

from merge_lib import registry
from merge_lib.arithmetic import Inputs
from merge_lib.checkpoints import NO_DIGEST, CheckpointWriter, WrittenCheckpoint, tensor_digest
from merge_lib.engine import check_paths, merge_lineage, open_digested
from merge_lib.errors import CheckpointMismatchError, SpecError
from merge_lib.folding import Folded, leave
from merge_lib.ops.cores import one_core
from merge_lib.plan import Plan
from merge_lib.registry import MethodInfo
from merge_lib.sequence.opening import Opened, opened_fold, spec_of, without_experts
from merge_lib.spec import MergeSpec
from merge_lib.states import History, StateFile, check_same_base, write_state


@dataclass(frozen=True)
class FoldReport:
    """A state that lies on the disk, whole, and the merge that was read from it.

    Attributes:
        digest: of the state's tensors.
        experts: digests of all that are folded in, in order.
        state_bytes: of the state's tensors.
        merged: the merged checkpoint, if one was asked for.
    """

    path: Path
    digest: str
    method: str
    experts: tuple[str, ...]
    state_bytes: int
    merged: WrittenCheckpoint | None
    elapsed_s: float

    @property
    def state_bytes_per_expert(self) -> float:
        """What an expert of the sequence costs to keep, on average."""
        return self.state_bytes / len(self.experts)


@dataclass(frozen=True)
class FoldPreview:
    """What a fold would do, from headers alone.

    Attributes:
        experts: how many would be folded in.
        before: how many are.
        read_bytes: of the tensors of base, experts and state.
    """

    method: str
    experts: int
    before: int
    tensors: int
    read_bytes: int


def fold_experts(
    spec: MergeSpec,
    state: Path,
    *,
    earlier: Path | None = None,
    out: Path | None = None,
    again: bool = False,
    lineage: Mapping[str, Any] | None = None,
) -> FoldReport:
    """Fold experts into the state of a continual method.

    Args:
        spec: the method with its parameters, the base, and the new experts, in order.
        state: where the new state goes; an existing file is replaced once the new one is whole.
        earlier: the state to go on from, which may be at the same path; None begins a sequence.
        out: where the merged checkpoint goes, a single file; None: nowhere.
        again: the last expert of the earlier state may come once more.
        lineage: more JSON values for the merged file's lineage.

    Returns:
        Where the state is and what it is.

    Raises:
        SpecError: the method is not continual, a path is in the way, or the expert is folded in already.
        CheckpointMismatchError: base, method, parameters or tensors are not those of the earlier state.
        CheckpointError: a checkpoint or state is missing or damaged, or cannot be written.
        MethodInputError: an expert or the merge is not finite.
    """
    started = perf_counter()
    with opened_fold(spec, state, earlier, out) as opened, ExitStack() as stack:
        stack.enter_context(_cores(registry.get(spec.method)))
        merged = None if out is None else stack.enter_context(_begun(opened, out, lineage or {}))
        folded = _fold(opened, state.resolve().parent, merged)
        copied = _copied(opened)
        if merged is not None:
            _write_rest(opened, folded, merged)
        history = _history(opened, copied, again=again)
        written = None if merged is None else merged.finish(_lineage(spec, lineage or {}, history))
        file = write_state(state, opened.recipe, history, folded.states, folded.shared)
    size = sum(folded.states.describe(name).size_bytes for name in folded.states)  # type: ignore[attr-defined]
    return FoldReport(
        file.path, file.digest, spec.method, history.experts, size, written, perf_counter() - started
    )


def preview_fold(
    spec: MergeSpec, state: Path, *, earlier: Path | None = None, out: Path | None = None
) -> FoldPreview:
    """Check a fold as `fold_experts` does before it reads any tensor; takes and raises the same."""
    with opened_fold(spec, state, earlier, out) as opened:
        sources = [one for one in (opened.base, *opened.experts) if one is not None]
        size = sum(one.data_bytes for one in sources)
        size += 0 if opened.earlier is None else opened.earlier.state_bytes
        count = sum(1 for _ in opened.plan.merged_names(0))
        return FoldPreview(spec.method, len(spec.experts), len(opened.before), count, size)


def read_merge(state: Path, base: Path, out: Path, **params: Any) -> WrittenCheckpoint:
    """Write the merge that a state holds, without another expert: of a method with scope "model".

    Args:
        state: the state file.
        base: the one that its sequence began with.
        out: where the merged checkpoint goes, a single file.
        params: of reading alone, such as `task` of a method that decodes.

    Returns:
        The merged checkpoint; its bytes are those of merging all the experts at once.

    Raises:
        SpecError: the method gives its merge only while an expert is folded in, or has no such parameter.
        CheckpointMismatchError: it is another base.
        CheckpointError: a file is missing or damaged, or cannot be written.
    """
    with StateFile(state) as file, ExitStack() as stack:
        spec = spec_of(file, base, params)
        check_paths([spec], [out])
        source = open_digested(stack, base)
        stack.enter_context(_cores(registry.get(spec.method)))
        check_same_base(file.path, file.history.base, source.recorded_digest or file.history.base)  # type: ignore[union-attr]
        plan = Plan([without_experts(spec)], source, ())
        folded = Folded(plan.merge(0), file.shared, file)
        opened = Opened(spec, source, (), file, plan, file.recipe)
        with _begun(opened, out, {}) as merged:
            _write_rest(opened, folded, merged)
            file.check_whole()
            _check_copied(file.history.copied, _copied(opened), file.path)
            check_same_base(file.path, file.history.base, source.digest())  # type: ignore[union-attr]
            return merged.finish(_lineage(spec, {}, file.history))


def _cores(info: MethodInfo) -> Any:
    return nullcontext() if info.works_on == "entry" else one_core()


def _begun(opened: Opened, out: Path, extra: Mapping[str, Any]) -> CheckpointWriter:
    """The merged checkpoint, with places for the digests that are not known yet."""
    experts = [*opened.before, *[NO_DIGEST] * len(opened.experts)]
    return CheckpointWriter(
        out, opened.plan.layouts[0], merge_lineage(opened.spec, extra, NO_DIGEST, experts)
    )


def _lineage(spec: MergeSpec, extra: Mapping[str, Any], history: History) -> dict[str, Any]:
    return merge_lineage(spec, extra, history.base, history.experts)


def _fold(opened: Opened, folder: Path, merged: CheckpointWriter | None) -> Folded:
    """The state after all new experts."""
    plan, file = opened.plan, opened.earlier
    folded = Folded.begin(plan.merge(0), folder)
    if file is not None:
        folded.shared, folded.states = file.shared, file
    last = len(opened.experts) - 1
    for row in range(len(opened.experts)):
        take = leave if merged is None or row < last else _writes(plan, merged)
        folded.add(plan.each_inputs(0, (row,)), take)
        if row == 0 and file is not None:
            file.check_whole()
    return folded


def _writes(plan: Plan, merged: CheckpointWriter) -> Callable[[Inputs, Tensor], None]:
    """Puts what a step gives into the merged checkpoint."""

    def write(inputs: Inputs, tensor: Tensor) -> None:
        name = inputs.layer.name
        merged.write(name, plan.merge(0).finished(inputs, tensor, plan.layouts[0][name][0]))

    return write


def _write_rest(opened: Opened, folded: Folded, merged: CheckpointWriter) -> None:
    """What the steps have not written: merges that span the model, and copies."""
    plan, merge = opened.plan, opened.plan.merge(0)
    if merge.method.implementation.shared is not None:
        write = _writes(plan, merged)
        for inputs in plan.each_inputs(0, ()):
            with merge.named(inputs):
                write(inputs, folded.read(inputs.layer.name))
    for name in plan.names:
        if not plan.is_merged(0, name):
            merged.write(name, plan.result(0, plan.load(name)))


def _copied(opened: Opened) -> dict[str, str]:
    """The digests of tensors that are not merged but the same in all experts."""
    plan = opened.plan
    names = [name for name in plan.names if not plan.is_merged(0, name) and not plan.is_excluded(0, name)]
    return {name: tensor_digest(plan.result(0, plan.load(name))) for name in names}


def _check_copied(recorded: dict[str, str], found: dict[str, str], state: Path) -> None:
    wrong = [name for name in sorted(recorded) if recorded[name] != found.get(name)]
    if wrong:
        raise CheckpointMismatchError(
            f"Tensors {', '.join(wrong)} differ from those of the experts in state {state}. Only floating tensors are "
            "merged; others must be equal in all. Begin a new state and list them in `exclude` to leave them as "
            "in the base."
        )


def _history(opened: Opened, copied: dict[str, str], *, again: bool) -> History:
    """What the new state is made from, once everything was read."""
    base = None if opened.base is None else opened.base.digest()
    experts = tuple(expert.digest() for expert in opened.experts)
    file = opened.earlier
    if file is not None:
        check_same_base(file.path, file.history.base, base)
        _check_copied(dict(file.history.copied), copied, file.path)
        if experts[0] == file.history.experts[-1] and not again:
            raise SpecError(
                f"Expert '{opened.experts[0].label}' is the last one in state {file.path} already ({experts[0]}). "
                "Nothing was written. Fold in the next one; to count this one twice, say so (`again`, --again)."
            )
    first = opened.experts[0]
    merged = {name: (first.dtype(name), tuple(first.shape(name))) for name in opened.plan.merged_names(0)}
    return History(base, (*opened.before, *experts), merged, copied)
