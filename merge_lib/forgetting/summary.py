"""What a merge lost, in short: by task and by block. Sums are exact, not means of shares."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from merge_lib.diagnostics.summary import Part, by_block, by_task, parts_of
from merge_lib.results import ForgettingSummary

PARTS = ("shared", "specific")
_OVERLAPS = ("left overlap", "right overlap", "merged left overlap", "merged right overlap")
_OF_BLOCKS = ("shared share", "shared kept", "specific kept")


@dataclass(frozen=True)
class Loss:
    """One expert's tensor among those that lost most.

    Attributes:
        shared: ‖part‖² − ⟨Δ, part⟩ of the shared part, over ‖τ_t‖² of the whole model; below 0 where the merge goes
            further than the expert.
        specific: the same of the task-specific part.
    """

    tensor: str
    task: str
    shared: float
    specific: float

    @property
    def gone(self) -> float:
        """Of both."""
        return self.shared + self.specific


def totals(parts: Iterable[Part]) -> dict[str, float]:
    """The quantities of several tensors together, of one expert; undefined ones are left out.

    Parts, their products with Δ and their energies add up, so that the shares, what is kept and the cosines are those
    of the tensors put end to end. Overlaps are means over the matrices, weighted by ‖τ_t‖².
    """
    some = list(parts)
    energy = math.fsum(part.energy for part in some)
    change = math.fsum(part.get("merged norm") ** 2 for part in some)
    found = {"norm": math.sqrt(energy)}
    kept = 0.0
    for name in PARTS:
        energies = [_energy(part, name) for part in some]
        whole = math.fsum(energies)
        product = _weighted(some, energies, f"{name} kept")
        kept += product
        found[f"{name} share"] = _over(whole, energy)
        found[f"{name} kept"] = _over(product, whole)
        found[f"{name} cosine"] = _over(product, math.sqrt(whole * change))
        for sign in ("opposed", "outvoted"):
            found[f"{name} {sign}"] = _over(_weighted(some, energies, f"{name} {sign}"), whole)
    found["energy kept"] = _over(kept, energy)
    for quantity in _OVERLAPS:
        defined = [part for part in some if quantity in part.measured]
        weights = [part.energy for part in defined]
        found[quantity] = _over(_weighted(defined, weights, quantity), math.fsum(weights))
    return {quantity: value for quantity, value in found.items() if math.isfinite(value)}


def tasks_of(table: pa.Table) -> dict[str, dict[str, float]]:
    """The quantities of the whole model, for each task."""
    return by_task(parts_of(table), totals)


def summarise(
    table: pa.Table, shares: Mapping[str, Mapping[str, float]] | None = None, record: str = ""
) -> ForgettingSummary:
    """What a report needs of a merge: quantities by task, beside the shares of examples, and by block."""
    parts = parts_of(table)
    measured = by_task(parts, totals)
    tasks = {task: {**(shares or {}).get(task, {}), **found} for task, found in measured.items()}
    return ForgettingSummary(record, tasks, _blocks(parts))


def blocks_of(table: pa.Table) -> dict[str, dict[str, dict[str, float]]]:
    """Block -> task -> how much of its energy is shared, and what of both parts is kept."""
    return _blocks(parts_of(table))


def _blocks(parts: list[Part]) -> dict[str, dict[str, dict[str, float]]]:
    blocks = by_block(parts, totals)
    return {
        block: {
            task: {name: found[name] for name in _OF_BLOCKS if name in found} for task, found in tasks.items()
        }
        for block, tasks in blocks.items()
    }


def largest_losses(tables: Iterable[pa.Table], count: int = 10) -> list[Loss]:
    """The tensors where most of an expert's energy is gone, the worst first; tables of several seeds count together."""
    places: dict[tuple[str, str], list[Part]] = {}
    energies: dict[str, float] = {}
    for part in (part for table in tables for part in parts_of(table)):
        places.setdefault((part.tensor, part.task), []).append(part)
        energies[part.task] = energies.get(part.task, 0.0) + part.energy
    losses = [
        Loss(*place, *(math.fsum(_gone(part, name) for part in some) / energies[place[1]] for name in PARTS))
        for place, some in places.items()
        if energies[place[1]]
    ]
    worst = sorted(losses, key=lambda loss: (-loss.gone, loss.tensor, loss.task))
    return [loss for loss in worst[:count] if loss.gone > 0]


def _gone(part: Part, name: str) -> float:
    return _energy(part, name) * (1 - part.get(f"{name} kept"))


def _energy(part: Part, name: str) -> float:
    share = part.get("shared share")
    return part.energy * (share if name == "shared" else 1 - share)


def _weighted(parts: list[Part], weights: list[float], quantity: str) -> float:
    return math.fsum(
        weight * part.get(quantity) for part, weight in zip(parts, weights, strict=True) if weight
    )


def _over(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
