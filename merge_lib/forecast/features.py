"""What is known of a merge before it is evaluated: one row of features for each task, from weights alone.

τ_t is expert t − base, Δ is merged − base as it is stored. Every feature is a quotient of sums over entries, so it
has no unit, and a feature of several tensors is that of the tensors put end to end. Each feature is of the whole
model; those that are marked are also of each third of the depth, of the output behind the blocks
(`merge_lib.forecast.regions`), and of all vectors (scales and shifts). A part without tensors, or that no expert
changed, takes the model's value, so that models of different depth have the same features.

Of the experts:

| feature | definition | parts |
|---|---|---|
| experts | number of experts | |
| length | ‖τ_t‖ / ‖θ_0‖ | yes |
| length ratio | ln(‖τ_t‖ / mean_s ‖τ_s‖) | |
| cosine | mean over s ≠ t of ⟨τ_t, τ_s⟩ / (‖τ_t‖ ‖τ_s‖) | yes |
| largest cosine | the greatest of these | |
| carried | mean over s > t of ⟨τ_s, τ_t⟩ / ‖τ_t‖²: 1 where later experts start from this one | |
| carries | mean over s < t of ⟨τ_t, τ_s⟩ / ‖τ_s‖² | |
| specific | length of the part of τ_t orthogonal to all experts before it, over ‖τ_t‖ | |
| sign conflict | share of ‖τ_t‖² in entries whose sign is not that of Σ_s τ_s | yes |
| input overlap | mean over s ≠ t of ‖τ_t τ_sᵀ‖² / (‖τ_t τ_tᵀ‖ ‖τ_s τ_sᵀ‖), matrices: shared input directions | |
| output overlap | the same of ‖τ_tᵀ τ_s‖²: shared output directions | |
| row overlap | mean over s ≠ t of the cosine between the energies of the rows, matrices | yes |
| row focus | ln of how many times fewer rows bear the energy than there are, matrices | yes |
| along neurons | share of ‖τ_t‖² of matrices along the base's rows (NeuroMerging's parallel part) | |
| neuron conflict | share of ‖τ_t‖² of matrices in orthogonal coordinates whose sign lost (NeuroMerging) | |
| pair barrier | mean over s ≠ t of Σ τ_t² (τ_s − τ_t)² / (4 Σ τ_t⁴): the barrier half-way to another expert | |
| signal | mean over matrices of ‖τ_t τ_tᵀ‖ / ‖(θ_0 + τ_t) τ_tᵀ‖: how much of a layer's output is the task's | yes |

Of the merge:

| feature | definition | parts |
|---|---|---|
| kept | ⟨Δ, τ_t⟩ / ‖τ_t‖², the projected energy | yes |
| kept lead | kept less the greatest of the other tasks' | yes |
| merge cosine | ⟨Δ, τ_t⟩ / (‖Δ‖ ‖τ_t‖) | yes |
| reach | ‖Δ‖ / mean_s ‖τ_s‖ | |
| residual | ‖Δ − kept · τ_t‖² / ‖τ_t‖² | |
| distance | ‖Δ − τ_t‖ / ‖θ_0‖ | yes |
| relative distance | ‖Δ − τ_t‖ / ‖mean_s τ_s − τ_t‖, against the plain mean | |
| perturbation | mean over tensors of ‖Δ − τ_t‖ / ‖θ_0‖, at most 4 each | yes |
| opposed | share of ‖τ_t‖² in entries where the merge has the other sign | |
| specific kept | ⟨Δ, u_t⟩ / ⟨τ_t, u_t⟩, u_t the part of τ_t orthogonal to all experts before it | yes |
| later push | length of Δ along the specific parts of later experts, over ‖u_t‖ | yes |
| earlier shift | length of Δ − τ_t along the earlier experts, over ‖u_t‖ | |
| outside | length of Δ outside of what the experts span, over ‖u_t‖ | yes |
| own kept | ⟨Δ τ_tᵀ, τ_t τ_tᵀ⟩ / ‖τ_t τ_tᵀ‖², matrices: kept of what τ_t does to inputs like its own | yes |
| own kept lead | own kept less the greatest of the other tasks' | |
| row kept | Σ_r ‖τ_t,r‖² ⟨Δ_r, τ_t,r⟩ / Σ_r ‖τ_t,r‖⁴, matrices: kept in the rows that τ_t changes most | yes |
| disturbance | ‖(Δ − τ_t) τ_tᵀ‖² / ‖τ_t τ_tᵀ‖², matrices: CAT's conflict with τ_t's rows for features | yes |
| push | mean over matrices of ‖(Δ − τ_t) τ_tᵀ‖ / ‖(θ_0 + τ_t) τ_tᵀ‖: how far layers move on its inputs | yes |
| foreign push | ‖Δ τ_tᵀ‖² / ‖τ_t τ_tᵀ‖² − (own kept)²: the part of it that does not point along τ_t | |
| barrier | Σ τ_t² (Δ − τ_t)² / Σ τ_t⁴: the rise of the loss from expert to merge | yes |

Barriers are those of a quadratic loss whose Hessian is diagonal, with τ_t² for it: linear mode connectivity as far as
weights alone can tell. With one expert there is no other task: the features about others are 0, and leads are the
task's own value.
Quotients that may be far above 1 are told as ln(1 + x), or a few merges of large scale would rule.
"""

import math
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

from merge_lib.forecast.regions import PARTS, Part
from merge_lib.forecast.sums import MergeSums, PairSums

WHOLE = "model"
BY_PART = (
    "length",
    "cosine",
    "sign conflict",
    "row overlap",
    "row focus",
    "kept",
    "kept lead",
    "merge cosine",
    "distance",
    "perturbation",
    "specific kept",
    "later push",
    "outside",
    "own kept",
    "row kept",
    "disturbance",
    "signal",
    "push",
    "barrier",
)
WHOLE_ONLY = (
    "experts",
    "length ratio",
    "largest cosine",
    "carried",
    "carries",
    "specific",
    "input overlap",
    "output overlap",
    "along neurons",
    "neuron conflict",
    "pair barrier",
    "reach",
    "residual",
    "relative distance",
    "opposed",
    "earlier shift",
    "own kept lead",
    "foreign push",
)
NAMES = (
    *(f"{name} ({WHOLE})" for name in (*WHOLE_ONLY, *BY_PART)),
    *(f"{name} ({part})" for part in PARTS for name in BY_PART),
)
Features = dict[str, float]
Sums = TypeVar("Sums", PairSums, MergeSums)


def feature_rows(pairs: Mapping[Part, PairSums], merges: Mapping[Part, MergeSums]) -> list[Features]:
    """The features of a merge, one row for each expert.

    Args:
        pairs: the sums over the tensors of each part that has any; regions hold every tensor once.
        merges: the same of the merge.

    Returns:
        For each expert every name of `NAMES`, finite.
    """
    whole = _columns(_total(pairs), _total(merges))
    columns = {f"{name} ({WHOLE})": whole[name] for name in (*WHOLE_ONLY, *BY_PART)}
    for part in PARTS:
        found = _columns(pairs[part], merges[part]) if part in pairs else whole
        for name in BY_PART:
            columns[f"{name} ({part})"] = torch.where(found[name].isfinite(), found[name], whole[name])
    plain = {name: values.where(values.isfinite(), 0.0).tolist() for name, values in columns.items()}
    return [{name: plain[name][task] for name in NAMES} for task in range(len(whole["kept"]))]


def _total(sums: Mapping[Part, Sums]) -> Sums:
    """Over all tensors; the vectors are in the regions, too."""
    first, *others = (found for part, found in sums.items() if part != "vectors")
    return sum(others, first)  # type: ignore[return-value]


def _columns(pairs: PairSums, merge: MergeSums) -> dict[str, Tensor]:
    """Every feature of some tensors, [n] each; NaN where it is undefined."""
    return {
        **_lengths(pairs),
        **_overlaps(pairs),
        **_kept(pairs, merge),
        **_distances(pairs, merge),
        **_in_order(pairs, merge),
        **_in_layers(pairs, merge),
    }


def _lengths(pairs: PairSums) -> dict[str, Tensor]:
    energy = pairs.products.diagonal()
    lengths = energy.sqrt()
    projections = pairs.products / energy[:, None]  # [t, s]: ⟨τ_s, τ_t⟩ / ‖τ_t‖²
    return {
        "experts": torch.full_like(energy, float(len(energy))),
        "length": lengths / pairs.base.sqrt(),
        "length ratio": (lengths / lengths.mean()).log(),
        "carried": _mean_where(projections, torch.ones_like(projections).triu(1)),
        "carries": _mean_where(projections.T, torch.ones_like(projections).tril(-1)),
        "sign conflict": pairs.outvoted / energy,
        "along neurons": pairs.parallel / pairs.matrices,
        "neuron conflict": pairs.neurons_outvoted / pairs.matrices,
        "row focus": (pairs.focus / pairs.matrices).log(),
    }


def _overlaps(pairs: PairSums) -> dict[str, Tensor]:
    cosines, fourth = _normalised(pairs.products), pairs.squares.diagonal()
    half_way = (pairs.squares - 2 * pairs.cubes + fourth[:, None]) / (4 * fourth[:, None])
    return {
        "cosine": _mean_of_others(cosines),
        "largest cosine": _largest_of_others(cosines),
        "input overlap": _mean_of_others(_normalised(pairs.inputs)),
        "output overlap": _mean_of_others(_normalised(pairs.outputs)),
        "row overlap": _mean_of_others(_normalised(pairs.rows)),
        "pair barrier": _mean_of_others(half_way).clamp(min=0).log1p(),
    }


def _kept(pairs: PairSums, merge: MergeSums) -> dict[str, Tensor]:
    energy, product = pairs.products.diagonal(), merge.products.diagonal()
    kept = product / energy
    return {
        "kept": kept,
        "kept lead": _lead(kept),
        "merge cosine": product / (energy * merge.energy).sqrt(),
        "residual": ((merge.energy - kept * product) / energy).clamp(min=0).log1p(),
        "opposed": merge.opposed / energy,
        "reach": (merge.energy.sqrt() / energy.sqrt().mean()).log1p(),
    }


def _distances(pairs: PairSums, merge: MergeSums) -> dict[str, Tensor]:
    energy, fourth = pairs.products.diagonal(), pairs.squares.diagonal()
    apart = (merge.energy - 2 * merge.products.diagonal() + energy).clamp(min=0).sqrt()
    mean = pairs.products.mean() - 2 * pairs.products.mean(1) + energy  # ‖mean τ − τ_t‖²
    return {
        "distance": apart / pairs.base.sqrt(),
        "relative distance": (apart / mean.clamp(min=0).sqrt()).log1p(),
        "perturbation": merge.perturbation / pairs.tensors,
        "barrier": ((merge.squares - 2 * merge.cubes + fourth) / fourth).clamp(min=0).log1p(),
    }


def _in_order(pairs: PairSums, merge: MergeSums) -> dict[str, Tensor]:
    """Δ − τ_t taken apart along the experts made orthogonal one after another; NaN where they are dependent."""
    triangle, failed = torch.linalg.cholesky_ex(pairs.products)
    if failed or (triangle.diagonal() <= 1e-6 * pairs.products.diagonal().sqrt()).any():
        names = ("specific", "specific kept", "later push", "earlier shift", "outside")
        return dict.fromkeys(names, torch.full_like(merge.energy, math.nan))
    along = torch.linalg.solve_triangular(triangle, merge.products.T, upper=False).T  # [t, i]: ⟨Δ_t, e_i⟩
    own = triangle.diagonal()
    outside = (merge.energy - along.square().sum(1)).clamp(min=0).sqrt()
    return {
        "specific": own / pairs.products.diagonal().sqrt(),
        "specific kept": along.diagonal() / own,
        "later push": (along.triu(1).norm(dim=1) / own).log1p(),
        "earlier shift": ((along - triangle).tril(-1).norm(dim=1) / own).log1p(),
        "outside": (outside / own).log1p(),
    }


def _in_layers(pairs: PairSums, merge: MergeSums) -> dict[str, Tensor]:
    energy = pairs.inputs.diagonal()
    own, reached = merge.own / energy, merge.reached / energy
    return {
        "own kept": own,
        "own kept lead": _lead(own),
        "row kept": merge.rows / pairs.rows.diagonal(),
        "disturbance": (reached - 2 * own + 1).clamp(min=0).log1p(),
        "foreign push": (reached - own.square()).clamp(min=0).log1p(),
        "signal": pairs.signal / pairs.kernels,
        "push": merge.push / pairs.kernels,
    }


def _normalised(products: Tensor) -> Tensor:
    lengths = products.diagonal().sqrt()
    return products / torch.outer(lengths, lengths)


def _mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """Of each row the mean where the mask is 1; 0 where it is nowhere."""
    return torch.where(mask > 0, values, 0.0).sum(1) / mask.sum(1).clamp(min=1)


def _mean_of_others(values: Tensor) -> Tensor:
    return _mean_where(values, 1 - torch.eye(len(values), dtype=values.dtype))


def _largest_of_others(values: Tensor) -> Tensor:
    if len(values) == 1:
        return values.new_zeros(1)
    return values.masked_fill(torch.eye(len(values), dtype=torch.bool), -math.inf).amax(1)


def _lead(values: Tensor) -> Tensor:
    """Each value less the greatest of the others."""
    if len(values) == 1:
        return values
    return values - _largest_of_others(values.expand(len(values), -1))
