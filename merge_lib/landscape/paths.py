"""Loss and accuracy along straight lines between checkpoints."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from merge_lib.errors import CheckpointMismatchError, SpecError
from merge_lib.landscape.measuring import Examples, measure
from merge_lib.maps import LossPath
from merge_lib.types import StateDict

Progress = Callable[[int, int], None]
"""Called with (points done, points in all)."""


@dataclass(frozen=True)
class Waypoint:
    """A checkpoint that a path leads through, or that a plane is seen from.

    Attributes:
        read: all its tensors; called when they are needed.
    """

    name: str
    read: Callable[[], StateDict]


def follow(
    waypoints: Sequence[Waypoint],
    examples: Examples,
    points: int,
    progress: Progress = lambda _done, _total: None,
) -> LossPath:
    """Loss and accuracy on each task at equally spaced points of every leg.

    The ends of each leg are the checkpoints themselves, bit by bit, and are measured once. In between, floating
    tensors, buffers among them, are (1 − s) · start + s · end in their own dtype; other tensors are those of the
    nearer end. Statistics of batch norms are interpolated like weights and not estimated anew.
    Memory: the two ends of a leg, and what `measure` needs.

    Args:
        waypoints: at least two; the path leads from each to the next.
        examples: what is shown.
        points: of each leg, both ends among them.
        progress: told how far it is.

    Raises:
        SpecError: fewer than two waypoints or points.
        CheckpointMismatchError: two neighbours differ in names or shapes.
    """
    if len(waypoints) < 2 or points < 2:
        raise SpecError(
            f"A path needs at least two checkpoints and two points on each leg; got {len(waypoints)} and {points}. "
            "Name more of them."
        )
    legs = len(waypoints) - 1
    shares = [place / (points - 1) for place in range(points)]
    positions = [0.0, *(leg + share for leg in range(legs) for share in shares[1:])]
    found = []
    for measured in measure(examples, _models(waypoints, shares)):
        found.append(measured)
        progress(len(found), len(positions))
    return LossPath(
        [waypoint.name for waypoint in waypoints],
        positions,
        examples.tasks,
        [one[:, 0].tolist() for one in found],
        [one[:, 1].tolist() for one in found],
        _count(examples),
    )


def between(start: StateDict, end: StateDict, share: float) -> dict[str, Tensor]:
    """The model at a share of the way; the ends are the checkpoints' own tensors."""
    if share in (0.0, 1.0):
        return dict(end if share else start)
    nearer = end if share > 0.5 else start
    return {
        name: (1 - share) * value + share * end[name] if value.is_floating_point() else nearer[name]
        for name, value in start.items()
    }


def check_alike(named: Sequence[tuple[str, StateDict]]) -> None:
    """Refuse models that differ in names or shapes from the first.

    Raises:
        CheckpointMismatchError: they do; all differences are told.
    """
    first, model = named[0]
    shapes = {name: tuple(value.shape) for name, value in model.items()}
    faults = []
    for other, state in named[1:]:
        theirs = {name: tuple(value.shape) for name, value in state.items()}
        faults += [
            f"'{name}' has shape {theirs.get(name, 'none')} in '{other}' but {shapes.get(name, 'none')} in '{first}'"
            for name in sorted(shapes.keys() | theirs.keys())
            if shapes.get(name) != theirs.get(name)
        ]
    if faults:
        raise CheckpointMismatchError(
            f"Models on one map must have the same tensors: {'; '.join(faults)}. "
            "Name checkpoints that were fine-tuned from one base."
        )


def _models(waypoints: Sequence[Waypoint], shares: Sequence[float]) -> Iterator[StateDict]:
    start = waypoints[0].read()
    yield between(start, start, 0.0)
    for begin, finish in pairwise(waypoints):
        end = finish.read()
        check_alike([(begin.name, start), (finish.name, end)])
        for share in shares[1:]:
            yield between(start, end, share)
        start = end


def _count(examples: Examples) -> int:
    """Examples of the task that has the most."""
    return max(sum(len(batch.labels) for batch in batches) for batches in examples.batches.values())
