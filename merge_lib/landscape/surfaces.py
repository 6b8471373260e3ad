"""Loss and accuracy over a part of a plane, row by row, and the checkpoints that are marked on it."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from merge_lib.errors import SpecError
from merge_lib.landscape.measuring import Examples, measure
from merge_lib.landscape.paths import Waypoint
from merge_lib.landscape.planes import Plane
from merge_lib.maps import LossSurface, Mark

MARGIN = 0.35  # around base and experts, of the longer side of their box
Row = list[list[list[float]]]  # [k][t][2]: loss and accuracy


@dataclass(frozen=True)
class Rows:
    """Rows of a grid that are finished, one a line, kept until the whole grid is.

    A file that a kill left goes on where it ends; a torn last line is measured again.

    Attributes:
        path: where they are kept; None keeps nothing.
        identity: what the grid is measured from; the rows of another are not used.
    """

    path: Path | None
    identity: str

    def found(self) -> list[Row]:
        """The rows from the first on."""
        lines = (
            [] if self.path is None or not self.path.is_file() else self.path.read_bytes().split(b"\n")[:-1]
        )
        if not lines or _read(lines[0]) != self.identity:
            return []
        rows = [_read(line) for line in lines[1:]]
        return rows[: rows.index(None)] if None in rows else rows

    def begin(self, rows: Sequence[Row]) -> None:
        """Write what was found anew, without a torn end."""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_name(f"{self.path.name}.{os.getpid()}")
            partial.write_text("".join(f"{json.dumps(line)}\n" for line in (self.identity, *rows)), "utf-8")
            partial.replace(self.path)

    def add(self, row: Row) -> None:
        """Append one, on the disk when this returns."""
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())

    def remove(self) -> None:
        """The grid is kept elsewhere now."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _read(line: bytes) -> Row | str | None:
    """What a line holds; None where it is torn."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def frame(plane: Plane, size: int) -> tuple[list[float], list[float]]:
    """Coordinates of a square grid around base and experts, equally spaced: xs and ys, [size] each.

    Raises:
        SpecError: fewer than two points a side.
    """
    if size < 2:
        raise SpecError(
            f"A surface needs at least 2 points along each side, got {size}. Give `size` 11 or more."
        )
    corners = np.array(plane.corners)
    low, high = corners.min(axis=0), corners.max(axis=0)
    half = (high - low).max() * (0.5 + MARGIN)
    middle = (low + high) / 2
    xs, ys = (np.linspace(centre - half, centre + half, size).tolist() for centre in middle)
    return xs, ys


def survey(
    plane: Plane,
    examples: Examples,
    size: int,
    rows: Rows | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> LossSurface:
    """Loss and accuracy on each task at every point of the grid of `frame`; no marks yet.

    Memory: the plane's three models, and what `measure` needs.

    Args:
        plane: through base and two experts.
        examples: what is shown.
        size: points along each side.
        rows: where finished rows are found and kept.
        progress: told the rows that are done.
    """
    xs, ys = frame(plane, size)
    kept = rows or Rows(None, "")
    done = kept.found()[:size]
    kept.begin(done)
    progress(len(done), size)
    for y in ys[
        len(done) :
    ]:  # a group of models never spans two rows, so that a resumed grid has the same bits
        row = [values.tolist() for values in measure(examples, (plane.at(x, y) for x in xs))]
        done.append(row)
        kept.add(row)
        progress(len(done), size)
    values = np.array(done)  # [y, x, t, 2]
    count = max(sum(len(batch.labels) for batch in batches) for batches in examples.batches.values())
    return LossSurface(
        examples.tasks, xs, ys, values[..., 0].tolist(), values[..., 1].tolist(), examples=count
    )


def mark(
    plane: Plane,
    examples: Examples | None,
    models: Sequence[tuple[Waypoint, str]],
    *,
    corners: Sequence[str] = (),
) -> list[Mark]:
    """Where models lie, and what they reach themselves.

    Args:
        plane: that they are seen from.
        examples: what they are measured on; None: only their places.
        models: each with its kind, read one at a time.
        corners: names of base, first and second expert, to be marked first.
    """
    known = [
        (Waypoint(name, lambda state=state: state), kind)
        for name, kind, state in zip(
            corners, ("base", "expert", "expert"), (plane.base, plane.first, plane.other), strict=False
        )
    ]
    found = []
    for place, (waypoint, kind) in enumerate([*known, *models]):
        model = waypoint.read()
        x, y, distance = (*plane.corners[place], 0.0) if place < len(known) else plane.locate(model)
        marked = Mark(waypoint.name, kind, x, y, distance)
        if examples is not None:
            (values,) = measure(examples, [model])
            losses = dict(zip(examples.tasks, values[:, 0].tolist(), strict=True))
            accuracies = dict(zip(examples.tasks, values[:, 1].tolist(), strict=True))
            marked = replace(marked, losses=losses, accuracies=accuracies)
        found.append(marked)
    return found
