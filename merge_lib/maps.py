"""Maps of where models lie: losses along paths and over planes, conflicts between experts. Plain values, for records.

Legend: P points of a path, L legs, k points along a side of a grid, T tasks measured, n pairs of experts.
"""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

MODEL = "whole model"  # the part of a conflict map that stands for all tensors together
MEAN = "mean"  # of the tasks measured


@dataclass(frozen=True)
class LossPath:
    """Loss and accuracy along straight lines from checkpoint to checkpoint.

    Attributes:
        waypoints: names of the checkpoints, L + 1.
        positions: of each point, [P]; 0 at the first checkpoint, 1 at the second, …
        tasks: that were measured, [T].
        losses: mean cross-entropy in nats, [P][T].
        accuracies: in [0, 1], [P][T].
        examples: of each task.
        record: "path/<key>" in the project's store; empty where it was not made there.
    """

    waypoints: list[str]
    positions: list[float]
    tasks: list[str]
    losses: list[list[float]]
    accuracies: list[list[float]]
    examples: int
    record: str = ""

    @property
    def legs(self) -> list[str]:
        """What each leg is called."""
        return [f"{start} → {end}" for start, end in zip(self.waypoints, self.waypoints[1:], strict=False)]

    def loss_on(self, task: str) -> list[float]:
        """Losses along the path on a task, or on `MEAN`, the mean of all measured."""
        return _column(self.losses, self.tasks, task)

    def accuracy_on(self, task: str) -> list[float]:
        """Accuracies along the path on a task, or on `MEAN`."""
        return _column(self.accuracies, self.tasks, task)

    def barriers(self, task: str = MEAN) -> list[float]:
        """Of each leg, max over its points of loss(s) − ((1 − s) · loss(start) + s · loss(end)).

        The ends count, so that a leg without a barrier has 0; a convex loss has 0 on every leg. NaN where a loss is
        infinite at an end, or NaN.
        Variant: Entezari et al., "The Role of Permutation Invariance in Linear Mode Connectivity of Neural Networks",
        ICLR 2022, arXiv:2110.06296, definition 2.1. Frankle et al., "Linear Mode Connectivity and the Lottery Ticket
        Hypothesis", ICML 2020, arXiv:1912.05671, section 2, subtract the mean of the two ends instead, on the error.
        """
        losses = self.loss_on(task)
        found = []
        for leg in range(len(self.waypoints) - 1):
            places = [p for p, position in enumerate(self.positions) if leg <= position <= leg + 1]
            start, end = losses[places[0]], losses[places[-1]]
            shares = [self.positions[p] - leg for p in places]
            above = [
                losses[p] - ((1 - s) * start + s * end) if 0 < s < 1 else 0.0
                for p, s in zip(places, shares, strict=True)
            ]
            found.append(math.nan if any(map(math.isnan, above)) else max(above))
        return found


@dataclass(frozen=True)
class Mark:
    """A checkpoint seen from a plane.

    Attributes:
        kind: "base", "expert" or "merge".
        x: along the first expert's task vector, in units of weights.
        y: across it, towards the second expert.
        distance: ‖checkpoint − its projection onto the plane‖, in the same units.
        losses: of the checkpoint itself, by task; none where it was not measured.
        accuracies: of the checkpoint itself, by task.
    """

    name: str
    kind: str
    x: float
    y: float
    distance: float
    losses: dict[str, float] = field(default_factory=dict)
    accuracies: dict[str, float] = field(default_factory=dict)

    @property
    def loss(self) -> float | None:
        """Mean over the tasks."""
        return sum(self.losses.values()) / len(self.losses) if self.losses else None

    @property
    def accuracy(self) -> float | None:
        """Mean over the tasks."""
        return sum(self.accuracies.values()) / len(self.accuracies) if self.accuracies else None


@dataclass(frozen=True)
class LossSurface:
    """Loss and accuracy over a part of the plane through base and two experts.

    Attributes:
        tasks: that were measured, [T]: those of the two experts.
        xs: coordinates along the first expert's task vector, [k].
        ys: coordinates across it, [k].
        losses: mean cross-entropy in nats, [k][k][T], rows by y.
        accuracies: in [0, 1], [k][k][T].
        examples: of each task.
        marks: base, the two experts, and merges.
        record: "surface/<key>" in the project's store; empty where it was not made there.
    """

    tasks: list[str]
    xs: list[float]
    ys: list[float]
    losses: list[list[list[float]]]
    accuracies: list[list[list[float]]]
    examples: int
    marks: list[Mark] = field(default_factory=list)
    record: str = ""

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """From plain JSON values."""
        return cls(**{**fields, "marks": [Mark(**mark) for mark in fields.get("marks", ())]})

    def loss_on(self, task: str) -> list[list[float]]:
        """[k][k], on a task, or on `MEAN`."""
        return [_column(row, self.tasks, task) for row in self.losses]

    def accuracy_on(self, task: str) -> list[list[float]]:
        """[k][k], on a task, or on `MEAN`."""
        return [_column(row, self.tasks, task) for row in self.accuracies]


@dataclass(frozen=True)
class ConflictMaps:
    """How each pair of experts agrees, by block.

    Attributes:
        tasks: of the experts, in their order.
        pairs: of tasks, [n], in the order (0, 1), (0, 2), …, (1, 2), ….
        blocks: block -> measure of `merge_lib.landscape.conflicts.MEASURES` -> a value for each pair, None where it
            is undefined; the last block is `MODEL`.
        record: "conflicts/<key>" in the project's store; empty where it was not made there.
    """

    tasks: list[str]
    pairs: list[list[str]]
    blocks: dict[str, dict[str, list[float | None]]]
    record: str = ""

    def mean(self, measure: str) -> float | None:
        """Of the whole model, over the pairs."""
        known = [value for value in self.blocks[MODEL][measure] if value is not None]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class Landscape:
    """What was looked at of one regime with one seed."""

    regime: str
    seed: int
    conflicts: ConflictMaps | None = None
    path: LossPath | None = None
    surface: LossSurface | None = None

    @property
    def records(self) -> list[str]:
        """Of the maps that there are."""
        return [one.record for one in (self.conflicts, self.path, self.surface) if one is not None]

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """From plain JSON values."""
        conflicts, path, surface = (fields.get(name) for name in ("conflicts", "path", "surface"))
        return cls(
            fields["regime"],
            fields["seed"],
            None if conflicts is None else ConflictMaps(**conflicts),
            None if path is None else LossPath(**path),
            None if surface is None else LossSurface.from_dict(surface),
        )


def save_map(found: LossPath | LossSurface, path: Path) -> Path:
    """Write as JSON with sorted keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(found), sort_keys=True) + "\n", encoding="utf-8")
    return path


def _column(rows: list[list[float]], tasks: list[str], task: str) -> list[float]:
    if task == MEAN:
        return [sum(row) / len(row) for row in rows]
    place = tasks.index(task)
    return [row[place] for row in rows]
