"""Shared and task-specific directions of task vectors, layer by layer, and what a merge kept of each.

Parts. With S and Z the left and right directions that the tasks share (`subspaces`), S Sᵀ τ_t Z Zᵀ is what lies in
them, whether the tasks agree there or not. In the rest, R_t = τ_t − S Sᵀ τ_t Z Zᵀ, tasks may still have a summand in
common, beyond the rank or in many directions a little. In r_t = R_t / ‖R_t‖ = c + u_t with the u_t orthogonal to c and
to one another, ρ, the mean of ⟨r_s, r_t⟩ over pairs, estimates ‖c‖², and c' = ρ m / ‖m‖², m the mean of the r_t,
estimates c: the shrunken mean. It is taken over those tasks whose mean cosine with the others is above
3 √(Σ_{s≠t} Σ_i r_s,i² r_t,i²) / (P−1), which entries of random signs seldom exceed, or 1 within rounding. So

    shared_t = S Sᵀ τ_t Z Zᵀ + ‖R_t‖ c'        specific_t = τ_t − shared_t

of which the second summand is left out for tasks that the mean is not taken over. Vectors and numbers have no
subspaces: their R_t is τ_t.

The energy of a part is ⟨τ_t, part⟩, which is ‖part‖² for what lies in a subspace, and the two energies add up to
‖τ_t‖². A part with at most 1e-12 of that is rounding and counts as zero. Kept is ⟨Δ, part⟩ / ⟨τ_t, part⟩: weighted by
the energies the two give an audit's energy kept. In the model above the expert itself keeps 1 of both, the mean of P
experts 1 of the shared and 1/P of the specific part, and merges of norms that differ push small experts further along
what they share.

Ends. Of one expert, or where all others are zero, nothing is shared. Identical experts, or parallel ones, share
everything. Opposite ones share their leading directions, in which they conflict (kept is 0 for their mean), and have
no more in common: their rests are specific. A zero task vector takes no part; its shares are undefined.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from merge_lib.forgetting.subspaces import Shared, Subspaces, common, leading_of_merge, overlaps

_ROUNDING = 1e-12  # of ‖τ_t‖²
_CHANCE = 3.0  # standard deviations of an inner product of entries with random signs

QUANTITIES = {
    "norm": "‖τ_t‖",
    "merged norm": "‖Δ‖",
    "shared share": "⟨τ_t, shared_t⟩ / ‖τ_t‖²",
    "shared kept": "⟨Δ, shared_t⟩ / ⟨τ_t, shared_t⟩",
    "specific kept": "⟨Δ, specific_t⟩ / ⟨τ_t, specific_t⟩",
    "shared cosine": "⟨Δ, shared_t⟩ / (‖Δ‖ ‖shared_t‖)",
    "specific cosine": "⟨Δ, specific_t⟩ / (‖Δ‖ ‖specific_t‖)",
    "shared opposed": "share of ‖shared_t‖² in entries whose sign is not that of Δ",
    "specific opposed": "share of ‖specific_t‖² in entries whose sign is not that of Δ",
    "shared outvoted": "share of ‖shared_t‖² in entries whose sign is not that of Σ_s τ_s",
    "specific outvoted": "share of ‖specific_t‖² in entries whose sign is not that of Σ_s τ_s",
    "cosine with others": "⟨τ_t, Σ_{s≠t} τ_s⟩ / (‖τ_t‖ ‖Σ_{s≠t} τ_s‖)",
    "rank": "r_t, of matrices",
    "left overlap": "mean over s≠t of ‖U_tᵀ U_s‖² / min(r_t, r_s), U_t the leading left singular vectors",
    "right overlap": "the same of the right ones",
    "merged left overlap": "‖U_tᵀ U‖² / r_t, U the r_t leading left singular vectors of Δ",
    "merged right overlap": "the same of the right ones",
    "shared left rank": "dimension of the shared left subspace, of matrices",
    "shared right rank": "of the right one",
}
OF_THE_TENSOR = ("merged norm", "shared left rank", "shared right rank")


def compare(
    task_vectors: Float[Tensor, " n *shape"],
    merged: Float[Tensor, " m *shape"],
    known: Subspaces | None,
) -> dict[str, list[float]]:
    """Every quantity of `QUANTITIES` for one tensor: one value an expert, or one of the tensor; NaN where undefined.

    Those of matrices alone are left out for vectors.

    Args:
        task_vectors: one row per expert.
        merged: the merged task vector; of methods that give a model for each task, one per expert.
        known: `subspaces(task_vectors)`.
    """
    rows, changes = (
        _as_matrices(some.double(), is_matrix=known is not None) for some in (task_vectors, merged)
    )
    found = {} if known is None else _of_subspaces(known, changes)
    return {**_of_parts(rows, changes, known and known.shared), **found}


def _as_matrices(rows: Tensor, *, is_matrix: bool) -> Tensor:
    """[n, rows, columns]; a vector is one row."""
    return rows.flatten(2) if is_matrix else rows.reshape(len(rows), 1, rows[0].numel())


def parts(
    rows: Float[Tensor, "t m n"], shared: Shared | None
) -> tuple[Float[Tensor, "t m n"], Float[Tensor, "t m n"]]:
    """The shared and the specific part of each task vector, in float64; they add up."""
    inside = torch.zeros_like(rows) if shared is None else torch.stack([shared.part(row) for row in rows])
    common = inside + _in_common(rows - inside, _ROUNDING * rows.square().sum((1, 2)))
    return _cleared(common, rows), _cleared(rows - common, rows)


def _in_common(rests: Tensor, noise: Tensor) -> Tensor:
    """‖R_t‖ c' for the tasks that agree, 0 for the others."""
    squares = rests.square().sum((1, 2))
    lengths = squares.sqrt() * (squares > noise)
    count = int((lengths > 0).sum())
    if count < 2:
        return torch.zeros_like(rests)
    units = rests * torch.where(lengths > 0, 1 / lengths, 0.0)[:, None, None]
    scatter = _products(units.square()).sum(1).sqrt() / (count - 1)
    cosines = _products(units).sum(1) / (count - 1)
    agree = (lengths > 0) & (cosines > (_CHANCE * scatter).clamp(max=1 - _ROUNDING))
    return _shrunken_mean(units[agree]) * (lengths * agree)[:, None, None]


def _shrunken_mean(units: Float[Tensor, "k m n"]) -> Float[Tensor, "m n"]:
    """C' of rests of length 1; 0 where their products are not positive on average."""
    count = len(units)
    if count < 2:
        return units.new_zeros(units.shape[1:])
    mean = units.mean(0)
    level = float(_products(units).sum()) / (count * (count - 1))
    return mean * (max(level, 0.0) / float(mean.square().sum()))


def _products(units: Float[Tensor, "k m n"]) -> Float[Tensor, "k k"]:
    """⟨r_s, r_t⟩, 0 on the diagonal."""
    flat = units.flatten(1)
    return (flat @ flat.mT).fill_diagonal_(0.0)


def _of_subspaces(known: Subspaces, changes: Tensor) -> dict[str, list[float]]:
    """Ranks and overlaps."""
    leads, shared = known.leads, known.shared
    merged = leading_of_merge(changes, max(1, *(one.rank for one in leads)))
    pairs = [(one, merged[place if len(merged) > 1 else 0]) for place, one in enumerate(leads)]
    return {
        "rank": [float(one.rank) for one in leads],
        "left overlap": overlaps([one.left for one in leads]),
        "right overlap": overlaps([one.right for one in leads]),
        "merged left overlap": [_held(one.left, other.left) for one, other in pairs],
        "merged right overlap": [_held(one.right, other.right) for one, other in pairs],
        "shared left rank": [float(shared.left.shape[1])],
        "shared right rank": [float(shared.right.shape[1])],
    }


def _held(basis: Tensor, merged: Tensor) -> float:
    """‖U_tᵀ U‖² / r_t with as many directions of the merge; NaN where either is zero."""
    rank = basis.shape[1]
    return common(basis, merged[:, :rank]) / rank if rank and merged.shape[1] else math.nan


def _of_parts(rows: Tensor, changes: Tensor, shared: Shared | None) -> dict[str, list[float]]:
    """What is measured of both parts; all are [t, m, n]."""
    total = rows.sum(0)
    others = total - rows
    energies, merged_energies = rows.square().sum((1, 2)), changes.square().sum((1, 2))
    found = {"norm": energies.sqrt(), "merged norm": merged_energies.sqrt()}
    found["cosine with others"] = _cosine(rows, others)
    for name, part in zip(("shared", "specific"), parts(rows, shared), strict=True):
        squares = part.square()
        size, energy = squares.sum((1, 2)), (part * rows).sum((1, 2))
        found[f"{name} share"] = _over(energy, energies)
        found[f"{name} kept"] = _over((part * changes).sum((1, 2)), energy)
        found[f"{name} cosine"] = _cosine(part, changes)
        found[f"{name} opposed"] = _over((squares * (part * changes < 0)).sum((1, 2)), size)
        found[f"{name} outvoted"] = _over((squares * (part * total < 0)).sum((1, 2)), size)
    del found["specific share"]  # 1 less the shared one
    return {name: values.tolist() for name, values in found.items()}


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    lengths = (one.square().sum((1, 2)) * other.square().sum((1, 2))).sqrt()
    return _over((one * other).sum((1, 2)), lengths).clamp(-1, 1)


def _cleared(part: Tensor, rows: Tensor) -> Tensor:
    """Zero where the part's energy is rounding."""
    noise = _ROUNDING * rows.square().sum((1, 2))
    return part * ((part * rows).sum((1, 2)) > noise)[:, None, None]


def _over(part: Tensor, whole: Tensor) -> Tensor:
    """The quotient, NaN where the whole is 0."""
    return torch.where(whole > 0, part / whole, torch.nan)
