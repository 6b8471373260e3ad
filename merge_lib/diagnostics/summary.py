"""An audit in short: by task, by block, and the tensors that lost most. Sums are exact, not means of shares."""

import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import pyarrow as pa

from merge_lib.results import AuditSummary

OUTSIDE = "no block"
_PER_ENERGY = ("energy kept", "outvoted energy", "opposed energy")
Key = TypeVar("Key", bound=Hashable)
_PER_PRESENT = ("outvoted entries", "opposed entries")


@dataclass
class Part:
    """What is measured of one expert in one tensor, by quantity, and what the method noted."""

    tensor: str
    block: str
    task: str
    measured: dict[str, float] = field(default_factory=dict)
    notes: dict[str, float] = field(default_factory=dict)

    @property
    def energy(self) -> float:
        """‖τ_t‖²."""
        return self.measured.get("norm", 0.0) ** 2

    @property
    def removed(self) -> float:
        """‖τ_t‖² less ⟨Δ, τ_t⟩: what is gone along the task vector; negative where more was put there."""
        return self.energy * (1 - self.measured.get("energy kept", 1.0))

    def get(self, quantity: str) -> float:
        """A measure, 0 where it is undefined."""
        return self.measured.get(quantity, 0.0)


Total = Callable[[Iterable[Part]], dict[str, float]]


@dataclass(frozen=True)
class Loss:
    """One expert's tensor among those that lost most.

    Attributes:
        share: of the expert's energy in the whole model, what is gone here along its task vector.
        kept: the tensor's own energy kept.
        why: what the method noted, by quantity.
    """

    tensor: str
    task: str
    share: float
    kept: float
    outvoted: float
    why: dict[str, float]


def parts_of(table: pa.Table) -> list[Part]:
    """Each expert's part of each tensor, in the table's order; what is said of the whole tensor is in every part."""
    parts: dict[tuple[str, int], Part] = {}
    whole: dict[str, list[tuple[str, str, float]]] = {}
    names = ("tensor", "block", "expert", "task", "source", "quantity", "value")
    columns = [table.column(name).to_pylist() for name in names]
    for tensor, block, expert, task, source, quantity, value in zip(*columns, strict=True):
        if expert < 0:
            whole.setdefault(tensor, []).append((source, quantity, value))
            continue
        part = parts.setdefault((tensor, expert), Part(tensor, block, task))
        (part.measured if source == "measure" else part.notes)[quantity] = value
    for part in parts.values():
        for source, quantity, value in whole.get(part.tensor, ()):
            (part.measured if source == "measure" else part.notes).setdefault(quantity, value)
    return list(parts.values())


def totals(parts: Iterable[Part]) -> dict[str, float]:
    """The measures of several tensors together, of one expert; undefined ones are left out.

    Energies and projections are added weighted by ‖τ_t‖², shares of entries by the entries that are not zero, densities
    by all entries: what comes out is the same measure of the tensors put end to end.
    """
    some = list(parts)
    energy = math.fsum(part.energy for part in some)
    entries = math.fsum(part.get("entries") for part in some)
    present = math.fsum(part.get("entries") * part.get("density") for part in some)
    found = {}
    for quantity in _PER_ENERGY:
        found[quantity] = _over(math.fsum(part.energy * part.get(quantity) for part in some), energy)
    for quantity in _PER_PRESENT:
        counts = (part.get("entries") * part.get("density") * part.get(quantity) for part in some)
        found[quantity] = _over(math.fsum(counts), present)
    found["density"] = _over(present, entries)
    merged = math.fsum(part.get("entries") * part.get("merged density") for part in some)
    found["merged density"] = _over(merged, entries)
    change = math.fsum(part.get("merged norm") ** 2 for part in some)
    product = math.fsum(part.energy * part.get("energy kept") for part in some)
    found["norm"], found["merged norm"] = math.sqrt(energy), math.sqrt(change)
    found["cosine"] = _over(product, math.sqrt(energy * change))
    return {quantity: value for quantity, value in found.items() if math.isfinite(value)}


def by_task(parts: list[Part], total: Total = totals) -> dict[str, dict[str, float]]:
    """The measures of the whole model, for each task; `total` makes them of tensors together."""
    return {task: total(some) for task, some in _grouped(parts, lambda part: part.task).items()}


def by_block(parts: list[Part], total: Total = totals) -> dict[str, dict[str, dict[str, float]]]:
    """The measures of each block, from the first to the last and then what is outside, for each task."""
    blocks = _grouped(parts, lambda part: part.block)
    ordered = sorted(blocks, key=_depth)
    return {block or OUTSIDE: by_task(blocks[block], total) for block in ordered}


def largest_losses(parts: list[Part], count: int = 10) -> list[Loss]:
    """The tensors from which most of an expert's energy is gone, the worst first, with the method's notes.

    Parts of several merges count together, so each tensor and task stands here once.
    """
    energies = {
        task: math.fsum(part.energy for part in some)
        for task, some in _grouped(parts, lambda part: part.task).items()
    }
    losses = [
        Loss(
            some[0].tensor,
            some[0].task,
            math.fsum(part.removed for part in some) / energies[some[0].task],
            totals(some)["energy kept"],
            totals(some)["outvoted energy"],
            _mean_notes(some),
        )
        for some in _grouped(parts, lambda part: (part.tensor, part.task)).values()
        if math.fsum(part.removed for part in some) > 0
    ]
    return sorted(losses, key=lambda loss: (-loss.share, loss.tensor, loss.task))[:count]


def _mean_notes(parts: list[Part]) -> dict[str, float]:
    names = dict.fromkeys(name for part in parts for name in part.notes)
    noted = {name: [part.notes[name] for part in parts if name in part.notes] for name in names}
    return {name: sum(values) / len(values) for name, values in noted.items()}


def summarise(table: pa.Table, record: str = "") -> AuditSummary:
    """What a report needs of an audit."""
    parts = parts_of(table)
    blocks = {
        block: {task: found["energy kept"] for task, found in tasks.items() if "energy kept" in found}
        for block, tasks in by_block(parts).items()
    }
    return AuditSummary(record, by_task(parts), blocks)


def _grouped(parts: Iterable[Part], key: Callable[[Part], Key]) -> dict[Key, list[Part]]:
    groups: dict[Key, list[Part]] = {}
    for part in parts:
        groups.setdefault(key(part), []).append(part)
    return groups


def _depth(block: str) -> tuple[bool, str, int]:
    stack, _, number = block.rpartition(".")
    return (not block, stack, int(number) if number else 0)


def _over(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
