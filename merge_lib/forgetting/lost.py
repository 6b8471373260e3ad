"""What a merge lost of each expert's shared and task-specific directions, tensor by tensor, as a table."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from merge_lib.diagnostics.auditing import WHOLE, Compared, compared, name_experts
from merge_lib.diagnostics.table import Line, make_table
from merge_lib.forgetting.directions import OF_THE_TENSOR, compare
from merge_lib.forgetting.subspaces import Subspaces, subspaces
from merge_lib.spec import MergeSpec
from merge_lib.types import StateDict

Remembered = dict[str, Subspaces | None]  # tensor -> what follows from the task vectors alone


@dataclass(frozen=True)
class Lost:
    """A merge beside its experts.

    Attributes:
        table: of `merge_lib.diagnostics.table.SCHEMA`, with the quantities of `directions.QUANTITIES`.
        states: the merged model; of a method that gives a model for each task, one for each.
    """

    table: pa.Table
    states: list[StateDict] = field(default_factory=list)


def lost_by(
    spec: MergeSpec,
    merged: Path | None = None,
    *,
    label: str | None = None,
    tasks: Sequence[str] = (),
    remembered: Remembered | None = None,
    keeps_states: bool = False,
    progress: Callable[[int], None] = lambda _bytes: None,
) -> Lost:
    """What a merge kept of the directions of each task vector.

    The merge is read tensor by tensor, or made again, as in an audit; memory holds one tensor of each checkpoint and
    float64 copies of it, about five for each expert.

    Args:
        spec: the merge; it needs a base.
        merged: the merge as a checkpoint; None: it is made again.
        label: what the table calls the merge; None: as its method.
        tasks: a name for each expert; none: from the file names.
        remembered: filled with the subspaces of the experts, and read, where the same experts are merged again.
        keeps_states: give the merged models, too; they are in memory whole.
        progress: told the bytes of each tensor, of all checkpoints, when it is done.

    Raises:
        SpecError: there is no base, or the numbers of tasks and experts differ.
        CheckpointError: a checkpoint is missing or damaged, or does not match the others.
        MethodInputError: an expert or the merge is not finite.
    """
    names = name_experts(spec, tasks)
    known = {} if remembered is None else remembered
    head = (spec.method, label or spec.method)
    lines: list[Line] = []
    states: list[dict] = []
    for one in compared(spec, merged, progress):
        lines += [(*head, *line) for line in _lines(one, names, known)]
        if keeps_states:
            states = states or [{} for _ in one.stored]
            for state, tensor in zip(states, one.stored, strict=True):
                state[one.name] = tensor
    return Lost(make_table(lines), states)  # type: ignore[arg-type]


def _lines(one: Compared, tasks: Sequence[str], known: Remembered) -> Iterator[tuple]:
    """Without the merge's name."""
    if one.layer is None or one.task_vectors is None or one.changes is None:
        return
    if one.name not in known:
        known[one.name] = subspaces(one.task_vectors)
    place = (one.layer.name, one.layer.role, one.layer.place)
    for quantity, values in compare(one.task_vectors, one.changes, known[one.name]).items():
        is_whole = quantity in OF_THE_TENSOR and len(values) == 1
        for expert, value in enumerate(values, WHOLE if is_whole else 0):
            task = "" if expert == WHOLE else tasks[expert]
            yield (*place, expert, task, "measure", quantity, value)
