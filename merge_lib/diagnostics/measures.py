"""How much of each task vector a merge kept: formulas that hold for every method."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

_AT_ONCE = 1 << 18  # float64 entries of all experts in one piece

MEASURES = {
    "entries": "number of entries of the tensor",
    "norm": "‖τ_t‖",
    "merged norm": "‖Δ‖",
    "energy kept": "⟨Δ, τ_t⟩ / ‖τ_t‖²",
    "residual": "‖Δ − c τ_t‖² / ‖τ_t‖² with c the energy kept",
    "cosine": "⟨Δ, τ_t⟩ / (‖Δ‖ ‖τ_t‖)",
    "outvoted entries": "share of the entries τ_t,i ≠ 0 with τ_t,i · Σ_s τ_s,i < 0",
    "outvoted energy": "Σ τ_t,i² / ‖τ_t‖² over the outvoted entries",
    "opposed entries": "share of the entries τ_t,i ≠ 0 with τ_t,i · Δ_i < 0",
    "opposed energy": "Σ τ_t,i² / ‖τ_t‖² over the opposed entries",
    "density": "share of the entries τ_t,i ≠ 0",
    "merged density": "share of the entries Δ_i ≠ 0",
    "overlap": "Σ_i min(|τ_t,i|, max_{s≠t} |τ_s,i|) / Σ_i |τ_t,i|",
}
OF_THE_MERGE = ("merged norm", "merged density")


@dataclass(frozen=True)
class Tally:
    """Sums over entries, float64; they add up over the pieces of a tensor, and over tensors.

    Attributes:
        entries: of one expert, [1].
        energy: Σ τ_t,i², [n].
        merged_energy: Σ Δ_i², [m].
        product: Σ Δ_i τ_t,i, [n].
        present: entries τ_t,i ≠ 0, [n].
        merged_present: entries Δ_i ≠ 0, [m].
        outvoted: entries against the sign of the sum over experts, [n].
        outvoted_energy: their Σ τ_t,i², [n].
        opposed: entries against the sign of the merge, [n].
        opposed_energy: their Σ τ_t,i², [n].
        mass: Σ |τ_t,i|, [n].
        shared_mass: Σ min(|τ_t,i|, max_{s≠t} |τ_s,i|), [n].
    """

    entries: Tensor
    energy: Tensor
    merged_energy: Tensor
    product: Tensor
    present: Tensor
    merged_present: Tensor
    outvoted: Tensor
    outvoted_energy: Tensor
    opposed: Tensor
    opposed_energy: Tensor
    mass: Tensor
    shared_mass: Tensor

    def __add__(self, other: "Tally") -> "Tally":
        """The sums over both."""
        return Tally(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


def tally(task_vectors: Float[Tensor, " n *shape"], merged: Float[Tensor, " m *shape"]) -> Tally:
    """All sums of one tensor, piece by piece.

    Args:
        task_vectors: one row per expert.
        merged: the merged task vector; of methods that give a model for each task, one per expert.
    """
    count = len(task_vectors)
    rows, changes = (one.reshape(len(one), one[0].numel()) for one in (task_vectors, merged))
    size = max(1, _AT_ONCE // (count + len(merged)))
    pieces = zip(rows.split(size, dim=1), changes.split(size, dim=1), strict=True)
    first, *others = [_tally(row.double(), change.double()) for row, change in pieces]
    return sum(others, first)


def measures(sums: Tally) -> dict[str, list[float]]:
    """Every measure of `MEASURES`: one value an expert, or one of the merge; NaN where it is undefined.

    Undefined are: shares and projections of a task vector that is zero, the cosine with a merge that is zero, and all
    shares of a tensor without entries.
    """
    kept = _over(sums.product, sums.energy)
    found = {
        "entries": sums.entries,
        "norm": sums.energy.sqrt(),
        "merged norm": sums.merged_energy.sqrt(),
        "energy kept": kept,
        "residual": _over(sums.merged_energy - kept * sums.product, sums.energy).clamp(min=0),
        "cosine": _over(sums.product, (sums.energy * sums.merged_energy).sqrt()).clamp(-1, 1),
        "outvoted entries": _over(sums.outvoted, sums.present),
        "outvoted energy": _over(sums.outvoted_energy, sums.energy),
        "opposed entries": _over(sums.opposed, sums.present),
        "opposed energy": _over(sums.opposed_energy, sums.energy),
        "density": _over(sums.present, sums.entries),
        "merged density": _over(sums.merged_present, sums.entries),
        "overlap": _over(sums.shared_mass, sums.mass),
    }
    return {name: values.tolist() for name, values in found.items()}


def _tally(rows: Tensor, merged: Tensor) -> Tally:
    """Of one piece, [n, size] and [m, size] in float64."""
    squares, sizes = rows.square(), rows.abs()
    outvoted, opposed = rows * rows.sum(0) < 0, rows * merged < 0
    return Tally(
        torch.tensor([float(rows.shape[1])], dtype=torch.float64),
        squares.sum(1),
        merged.square().sum(1),
        (rows * merged).sum(1),
        (rows != 0).sum(1).double(),
        (merged != 0).sum(1).double(),
        outvoted.sum(1).double(),
        (squares * outvoted).sum(1),
        opposed.sum(1).double(),
        (squares * opposed).sum(1),
        sizes.sum(1),
        _shared(sizes).sum(1),
    )


def _shared(sizes: Tensor) -> Tensor:
    """min(|τ_t,i|, max_{s≠t} |τ_s,i|): only the largest of an entry is cut, to the second largest."""
    largest = second = torch.zeros_like(sizes[0])
    for row in sizes:
        largest, second = largest.maximum(row), second.maximum(largest.minimum(row))
    return torch.where(sizes == largest, second, sizes)


def _over(part: Tensor, whole: Tensor) -> Tensor:
    """The quotient, NaN where the whole is 0."""
    return torch.where(whole > 0, part / whole, torch.nan)
