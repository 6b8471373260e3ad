"""What is known of a merge before it is evaluated: one row of features for each task, from weights alone.

τ_t is expert t − base, Δ is merged − base as it is stored. Every feature is a quotient of sums over entries, so it
has no unit, and a feature of several tensors is that of the tensors put end to end. A region is a third of the
depth, or the output behind the blocks (`merge_lib.forecast.regions`); a region without tensors takes the model's
value, so that models of different depth have the same features.

| feature | definition | regions |
|---|---|---|
| experts | number of experts | |
| length | ‖τ_t‖ / ‖θ_0‖ | all |
| length ratio | ln(‖τ_t‖ / mean_s ‖τ_s‖) | |
| cosine | mean over s ≠ t of ⟨τ_t, τ_s⟩ / (‖τ_t‖ ‖τ_s‖) | all |
| largest cosine | the greatest of these | |
| sign conflict | share of ‖τ_t‖² in entries whose sign is not that of Σ_s τ_s | all |
| input overlap | mean over s ≠ t of ‖τ_t τ_sᵀ‖² / (‖τ_t τ_tᵀ‖ ‖τ_s τ_sᵀ‖), matrices: shared input directions | all |
| output overlap | the same of ‖τ_tᵀ τ_s‖²: shared output directions | |
| along neurons | share of ‖τ_t‖² of matrices along the base's neurons (NeuroMerging's parallel part) | |
| neuron conflict | share of ‖τ_t‖² of matrices in orthogonal coordinates whose sign lost (NeuroMerging) | |
| pair barrier | mean over s ≠ t of Σ τ_t² (τ_s − τ_t)² / (4 Σ τ_t⁴): the rise half-way to another expert, τ_t² for the Fisher information | all |
| kept | ⟨Δ, τ_t⟩ / ‖τ_t‖², the projected energy | all |
| kept lead | kept less the greatest of the other tasks' | all |
| merge cosine | ⟨Δ, τ_t⟩ / (‖Δ‖ ‖τ_t‖) | all |
| residual | ‖Δ − kept · τ_t‖² / ‖τ_t‖² | all |
| distance | ‖Δ − τ_t‖ / ‖θ_0‖ | all |
| opposed | share of ‖τ_t‖² in entries where the merge has the other sign | |
| own kept | ⟨Δ τ_tᵀ, τ_t τ_tᵀ⟩ / ‖τ_t τ_tᵀ‖², matrices: kept of what τ_t does to inputs such as it was trained on | all |
| own kept lead | own kept less the greatest of the other tasks' | all |
| disturbance | ‖(Δ − τ_t) τ_tᵀ‖² / ‖τ_t τ_tᵀ‖², matrices: CAT's conflict of a layer with τ_t's rows for features | all |
| foreign push | ‖Δ τ_tᵀ‖² / ‖τ_t τ_tᵀ‖² − (own kept)²: the part of it that does not point along τ_t | all |
| barrier | Σ τ_t² (Δ − τ_t)² / Σ τ_t⁴: the loss's rise from expert to merge by a diagonal Hessian, τ_t² for it | all |

With one expert there is no other task: the features about others are 0, and leads are the task's own value.
Squares and quotients above 1 are told as ln(1 + x), or a few merges of large scale would rule.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from merge_lib.forecast.regions import REGIONS, Region
from merge_lib.forecast.sums import MergeSums, PairSums

WHOLE = "model"
BY_REGION = (
    "length",
    "cosine",
    "sign conflict",
    "input overlap",
    "pair barrier",
    "kept",
    "kept lead",
    "merge cosine",
    "residual",
    "distance",
    "own kept",
    "own kept lead",
    "disturbance",
    "foreign push",
    "barrier",
)
WHOLE_ONLY = (
    "experts",
    "length ratio",
    "largest cosine",
    "output overlap",
    "along neurons",
    "neuron conflict",
    "opposed",
)
NAMES = (
    *(f"{name} ({WHOLE})" for name in (*WHOLE_ONLY, *BY_REGION)),
    *(f"{name} ({region})" for region in REGIONS for name in BY_REGION),
)
Features = dict[str, float]
Sums = TypeVar("Sums", PairSums, MergeSums)


def feature_rows(pairs: Mapping[Region, PairSums], merges: Mapping[Region, MergeSums]) -> list[Features]:
    """The features of a merge, one row for each expert.

    Args:
        pairs: the sums over the tensors of each region that has any.
        merges: the same of the merge.

    Returns:
        For each expert every name of `NAMES`.
    """
    whole = _columns(_total(pairs), _total(merges))
    count = len(whole["kept"])
    columns = {f"{name} ({WHOLE})": whole[name] for name in (*WHOLE_ONLY, *BY_REGION)}
    for region in REGIONS:
        found = _columns(pairs[region], merges[region]) if region in pairs else whole
        for name in BY_REGION:
            own, fallback = found[name], whole[name]
            columns[f"{name} ({region})"] = torch.where(own.isfinite(), own, fallback)
    plain = {name: values.where(values.isfinite(), 0.0).tolist() for name, values in columns.items()}
    return [{name: plain[name][task] for name in NAMES} for task in range(count)]


def _total(sums: Mapping[Region, Sums]) -> Sums:
    first, *others = sums.values()
    return sum(others, first)  # type: ignore[return-value]


def _columns(pairs: PairSums, merge: MergeSums) -> dict[str, Tensor]:
    """Every feature of some tensors, [n] each; NaN where it is undefined."""
    return {**_of_experts(pairs), **_of_merge(pairs, merge)}


def _of_experts(pairs: PairSums) -> dict[str, Tensor]:
    energy, fourth = pairs.products.diagonal(), pairs.squares.diagonal()
    lengths, base = energy.sqrt(), pairs.base.sqrt()
    cosines = pairs.products / torch.outer(lengths, lengths)
    half_way = (pairs.squares - 2 * pairs.cubes + fourth[:, None]) / (4 * fourth[:, None])
    matrices = pairs.matrices
    return {
        "experts": torch.full_like(energy, float(len(energy))),
        "length": lengths / base,
        "length ratio": (lengths / lengths.mean()).log(),
        "cosine": _mean_of_others(cosines),
        "largest cosine": _largest_of_others(cosines),
        "sign conflict": pairs.outvoted / energy,
        "input overlap": _mean_of_others(_normalised(pairs.inputs)),
        "output overlap": _mean_of_others(_normalised(pairs.outputs)),
        "along neurons": pairs.parallel / matrices,
        "neuron conflict": pairs.neurons_outvoted / matrices,
        "pair barrier": _mean_of_others(half_way).clamp(min=0).log1p(),
    }


def _of_merge(pairs: PairSums, merge: MergeSums) -> dict[str, Tensor]:
    energy, fourth, own_energy = (m.diagonal() for m in (pairs.products, pairs.squares, pairs.inputs))
    kept, own = merge.product / energy, merge.own / own_energy
    reached = merge.reached / own_energy
    apart = (merge.energy - 2 * merge.product + energy).clamp(min=0)
    return {
        "kept": kept,
        "kept lead": _lead(kept),
        "merge cosine": merge.product / (energy * merge.energy).sqrt(),
        "residual": ((merge.energy - kept * merge.product) / energy).clamp(min=0).log1p(),
        "distance": apart.sqrt() / pairs.base.sqrt(),
        "opposed": merge.opposed / energy,
        "own kept": own,
        "own kept lead": _lead(own),
        "disturbance": (reached - 2 * own + 1).clamp(min=0).log1p(),
        "foreign push": (reached - own.square()).clamp(min=0).log1p(),
        "barrier": ((merge.squares - 2 * merge.cubes + fourth) / fourth).clamp(min=0).log1p(),
    }


def _normalised(products: Tensor) -> Tensor:
    lengths = products.diagonal().sqrt()
    return products / torch.outer(lengths, lengths)


def _mean_of_others(values: Tensor) -> Tensor:
    """Of each row the mean but for the diagonal; 0 where there is no other."""
    count = len(values)
    if count == 1:
        return values.new_zeros(1)
    return (values.sum(1) - values.diagonal()) / (count - 1)


def _largest_of_others(values: Tensor) -> Tensor:
    if len(values) == 1:
        return values.new_zeros(1)
    return values.masked_fill(torch.eye(len(values), dtype=torch.bool), -math.inf).amax(1)


def _lead(values: Tensor) -> Tensor:
    """Each value less the greatest of the others."""
    if len(values) == 1:
        return values
    return values - _largest_of_others(values.expand(len(values), -1))


def as_vector(features: Features, names: Sequence[str]) -> list[float]:
    """The values in the order of the names."""
    return [features[name] for name in names]
